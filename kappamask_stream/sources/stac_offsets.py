"""Which offset an Item's pixels still need: decided by what the metadata says *and* what the pixels show. Pure.

Since processing baseline 04.00 (January 2022) ESA adds 1000 to every DN of a reflectance band, so that reflectances
below 0 can be stored; readers subtract it. Earth Search subtracts it from the COGs that it makes of them, keeps
``offset: -0.1`` in ``raster:bands`` all the same, and says in ``earthsearch:boa_offset_applied`` what it did. That flag
is known to be wrong (Element84/earth-search issues 66 and 71, cirrus-geo/cirrus-earth-search issue 33: false, while the
offset is gone). Subtracting twice makes dark land black; not at all, everything hazy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from kappamask_stream.errors import ProductError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Verdict = Literal["inside", "removed", "unclear"]
Believed = Literal["baseline", "metadata", "flag", "pixels"]

#: What ESA's metadata has held since baseline 04.00.
_ESAS_OFFSET_DN = -1000.0
#: Below 500 DN, reflectance would be under -0.05 with the offset inside: next to nothing is. Without it, water and
#: vegetation are there in the bands that are looked at.
DARK_DN = 500
_FEWEST_PIXELS = 1000
#: Measured on 25 parts of 18 x 18 km of a real L2A product of baseline 04.00, land, sea and clouds: at most 1.6 % of a
#: part's pixels are that dark with the offset inside (cloud shadows that the correction overdoes), of the whole tile
#: 0.03 %; without it 3 to 99 % in 23 parts, 0.5 % in two closed clouds, of the whole tile 35 % (B01) and 19 % (B12).
_MANY, _HARDLY_ANY = 0.02, 0.002
#: With the offset inside, the darkest pixels of *every* band pile up around 1000 (1st percentiles of the whole tile:
#: 888 to 1066 in six bands).
_FLOOR_DN = (600.0, 1400.0)


@dataclass(frozen=True, kw_only=True)
class BandFloor:
    """The darkest pixels of a band, or of some of its blocks.

    Attributes
    ----------
    band : which.
    valid : pixels that are not 0.
    dark : those of them below `DARK_DN`.
    percentile_1 : DN below which 1 % of the valid ones lie.
    """

    band: str
    valid: int
    dark: int
    percentile_1: float

    def __str__(self) -> str:
        dark = 100 * self.dark / max(self.valid, 1)
        return f"{self.band}: {dark:.2f} % below {DARK_DN} DN, 1 % below {self.percentile_1:.0f}"


@dataclass(frozen=True, kw_only=True)
class OffsetDecision:
    """What is added to the DN of a product's reflectance bands.

    Attributes
    ----------
    offsets : band -> DN.
    believed : what decided.
    note : what people should know; None where everything agrees.
    """

    offsets: Mapping[str, float]
    believed: Believed
    note: str | None


def verdict(floors: Sequence[BandFloor]) -> Verdict:
    """Tell from the darkest pixels whether the offset of 1000 DN is still inside.

    ``removed`` needs dark pixels in one band. ``inside`` needs that no band has any, and that all of two or more bands
    begin a little above 1000: a desert, snow or a closed cloud is dark in none, but not as bright as that in all.
    """
    usable = [floor for floor in floors if floor.valid >= _FEWEST_PIXELS]
    if any(floor.dark >= _MANY * floor.valid for floor in usable):
        return "removed"
    low, high = _FLOOR_DN
    is_floor = all(low <= f.percentile_1 <= high and f.dark <= _HARDLY_ANY * f.valid for f in usable)
    return "inside" if is_floor and len(usable) > 1 else "unclear"


def decide_offsets(
    *,
    where: str,
    bands: Sequence[str],
    baseline: str | None,
    declared: Mapping[str, float],
    applied: bool | None,
    floors: Sequence[BandFloor] = (),
) -> OffsetDecision:
    """Decide which offset is added to the DN of each reflectance band.

    Parameters
    ----------
    where : the Item, for messages.
    bands : reflectance bands.
    baseline : processing baseline, ``04.00``; before it there is no offset, whatever else is said.
    declared : band -> offset in DN by the product's metadata, or else by the raster extension; those that say it.
    applied : Earth Search's flag; None where it is left out. True: the pixels need no offset any more.
    floors : the darkest pixels of some bands; none where pixels are ESA's own, which the metadata describes.

    Raises
    ------
    ProductError
        If nothing says whether there is an offset, or some bands have different ones and others none.
    """
    if baseline is not None and baseline < "04.00":
        # Bright scenes of old products look as if they had the offset: pixels do not count here.
        ignored = any(declared.get(band) for band in bands) or bool(applied)
        note = f"the Item speaks of an offset, products of baseline {baseline} have none: it is not applied"
        return OffsetDecision(offsets=dict.fromkeys(bands, 0.0), believed="baseline", note=note if ignored else None)
    said = {band: declared[band] for band in bands if band in declared}
    if baseline is None and not applied and not said:
        raise ProductError(
            f"{where} says nothing about the offset of its DN: no processing baseline, no offset in raster:bands or "
            "bands, no product metadata. Take an Item that does"
        )
    inside, completed = _of_all(where, bands, said, 0.0 if baseline is None else _ESAS_OFFSET_DN)
    flag = "boa_offset_applied is " + {None: "not given", True: "true", False: "false"}[applied]
    decision = _checked(
        expected=dict.fromkeys(bands, 0.0) if applied else inside,
        inside={band: offset or _ESAS_OFFSET_DN for band, offset in inside.items()},
        believed="flag" if applied else "metadata",
        flag=flag,
        floors=floors,
    )
    unlikely = None
    if baseline is not None and not floors and not any(decision.offsets.values()):
        unlikely = (
            f"the Item says that DN need no offset ({flag}), ESA's products of baseline {baseline} need "
            f"{_ESAS_OFFSET_DN:g} DN: the Item is believed, no pixels were looked at"
        )
    notes = [note for note in (completed, decision.note, unlikely) if note is not None]
    return replace(decision, note="; ".join(notes) or None)


def _of_all(
    where: str, bands: Sequence[str], said: Mapping[str, float], usual: float
) -> tuple[dict[str, float], str | None]:
    """Return an offset for each band, and a note where those that are said are taken for others, too.

    Bands of one product are never given different offsets by guess.
    """
    silent = [band for band in bands if band not in said]
    if not silent or not said:
        return {band: said.get(band, usual) for band in bands}, None
    values = set(said.values())
    if len(values) > 1:
        raise ProductError(
            f"{where} says offsets of {_range(said)} for {', '.join(said)} and none for {', '.join(silent)}: it cannot "
            "be told which one they have. Take an Item that says it for all bands, or for none"
        )
    offset = values.pop()
    note = f"the Item says the offset of {', '.join(said)} only: {', '.join(silent)} are given the same, {offset:g} DN"
    return dict.fromkeys(bands, offset), note


def _checked(
    *,
    expected: Mapping[str, float],
    inside: Mapping[str, float],
    believed: Believed,
    flag: str,
    floors: Sequence[BandFloor],
) -> OffsetDecision:
    """Compare what the metadata makes us expect with what the pixels show; `inside` is the offset if it is there."""
    found, shown = verdict(floors), "; ".join(map(str, floors))
    if found == "removed" and any(expected.values()):
        return OffsetDecision(
            offsets=dict.fromkeys(expected, 0.0),
            believed="pixels",
            note=f"the Item says that DN need an offset of {_range(expected)} ({flag}), its pixels are too dark for "
            f"that ({shown}): the offset is gone already, the pixels are believed, none is applied",
        )
    if found == "inside" and not any(expected.values()):
        return OffsetDecision(
            offsets=inside,
            believed="pixels",
            note=f"the Item says that DN need no offset ({flag}), no pixel is dark enough for that ({shown}): the "
            f"pixels are believed, {_range(inside)} is applied",
        )
    unchecked = f"offset of {_range(expected)} because {flag}; the scene is too bright to check that ({shown})"
    return OffsetDecision(
        offsets=expected, believed=believed, note=unchecked if floors and found == "unclear" else None
    )


def _range(offsets: Mapping[str, float]) -> str:
    low, high = min(offsets.values()), max(offsets.values())
    return f"{low:g} DN" if low == high else f"{low:g} to {high:g} DN"
