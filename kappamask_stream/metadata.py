"""The XML of a product: hardened parsing, and the fields that masks need.

Local names are matched whatever the namespace: PSD versions differ in it. Source: Sentinel-2 Products Specification
Document, sections on MTD_MSIL1C.xml, MTD_MSIL2A.xml and MTD_TL.xml.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from kappamask_stream.errors import ProductError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from xml.etree.ElementTree import Element

#: Largest XML file that is parsed; real ones have up to 1 MB.
XML_LIMIT = 32 * 1024 * 1024

#: ``band_id`` of offset lists -> band.
BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")

_LARGEST_OFFSET = 65535
_MOST_PIXELS = 2**16


@dataclass(frozen=True, kw_only=True)
class ProductMetadata:
    """Fields of MTD_MSIL1C.xml or MTD_MSIL2A.xml; see `Product` for their meaning."""

    uri: str
    level: str
    baseline: str
    satellite: str
    offsets: Mapping[str, float]
    quantification: Mapping[str, float]
    image_files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TileMetadata:
    """Fields of a granule's MTD_TL.xml; sizes are gsd_m -> (rows, columns), ulx and uly in metres."""

    epsg: int
    ulx: float
    uly: float
    sizes: Mapping[int, tuple[int, int]]


def parse_xml(data: bytes, name: str) -> Element:
    """Parse XML without DTDs, entities or external references.

    Raises
    ------
    ProductError
        If it is malformed or uses what is refused.
    """
    try:
        root: Element = fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise ProductError(f"{name} uses XML features that no Sentinel-2 product needs: {error}") from error
    except (ParseError, ValueError, LookupError) as error:
        raise ProductError(f"{name} is no well-formed XML ({error}): the file is damaged, fetch it again") from error
    return root


def product_metadata(data: bytes, name: str) -> ProductMetadata:
    """Read the product-level XML.

    Raises
    ------
    ProductError
        Naming file and field, where one is missing, doubled or nonsense.
    """
    reader = _Reader(parse_xml(data, name), name)
    level = {"Level-1C": "L1C", "Level-2A": "L2A", "Level-2Ap": "L2A"}.get(reader.text("PROCESSING_LEVEL"))
    if level is None:
        raise ProductError(f"{name}: PROCESSING_LEVEL is {reader.text('PROCESSING_LEVEL')!r}, not Level-1C or Level-2A")
    return ProductMetadata(
        uri=reader.text("PRODUCT_URI"),
        level=level,
        baseline=reader.text("PROCESSING_BASELINE"),
        satellite=reader.text("SPACECRAFT_NAME"),
        offsets=reader.offsets("RADIO_ADD_OFFSET" if level == "L1C" else "BOA_ADD_OFFSET"),
        quantification=reader.quantification(level),
        image_files=tuple(reader.all_texts("IMAGE_FILE")),
    )


def tile_metadata(data: bytes, name: str) -> TileMetadata:
    """Read a granule's XML.

    Raises
    ------
    ProductError
        Naming file and field, where one is missing, doubled or nonsense.
    """
    reader = _Reader(parse_xml(data, name), name)
    code = reader.text("HORIZONTAL_CS_CODE")
    authority, _, number = code.partition(":")
    if authority != "EPSG" or not number.isascii() or not number.isdigit():
        raise ProductError(f"{name}: HORIZONTAL_CS_CODE is {code!r}, not EPSG:<number>")
    sizes = {}
    for element in reader.all("Size"):
        part = _Reader(element, name)
        sizes[_resolution(element, name)] = (part.count("NROWS"), part.count("NCOLS"))
    corners = {
        (_Reader(element, name).number("ULX"), _Reader(element, name).number("ULY"))
        for element in reader.all("Geoposition")
    }
    if not sizes or len(corners) != 1:
        raise ProductError(f"{name}: {len(sizes)} sizes and {len(corners)} upper-left corners; one corner is expected")
    ulx, uly = corners.pop()
    return TileMetadata(epsg=int(number), ulx=ulx, uly=uly, sizes=sizes)


def _resolution(element: Element, name: str) -> int:
    text = element.get("resolution", "")
    if text not in ("10", "20", "60"):
        raise ProductError(f"{name}: a Size has resolution {text!r}, not 10, 20 or 60")
    return int(text)


class _Reader:
    """Finds fields by local name and refuses what is missing, doubled or nonsense."""

    def __init__(self, root: Element, name: str) -> None:
        self._root, self._name = root, name

    def all(self, tag: str) -> list[Element]:
        return [e for e in self._root.iter() if isinstance(e.tag, str) and e.tag.rpartition("}")[2] == tag]

    def all_texts(self, tag: str) -> list[str]:
        return [text for e in self.all(tag) if (text := (e.text or "").strip())]

    def text(self, tag: str) -> str:
        values = set(self.all_texts(tag))
        if len(values) != 1:
            what = "is missing or empty" if not values else f"has {len(values)} different values"
            raise ProductError(f"{self._name}: {tag} {what}; is this the metadata of one Sentinel-2 product?")
        return values.pop()

    def number(self, tag: str) -> float:
        return self._as_number(tag, self.text(tag))

    def count(self, tag: str) -> int:
        value = self.number(tag)
        if not 1 <= value <= _MOST_PIXELS or value != int(value):
            raise ProductError(f"{self._name}: {tag} is {value:g}, not a count between 1 and {_MOST_PIXELS}")
        return int(value)

    def _as_number(self, tag: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise ProductError(f"{self._name}: {tag} is {text[:80]!r}, not a number") from error
        if not math.isfinite(value):
            raise ProductError(f"{self._name}: {tag} is {text[:80]!r}, not a finite number")
        return value

    def offsets(self, tag: str) -> dict[str, float]:
        """Return band -> additive offset (DN); 0 for every band where the metadata lists none."""
        found: dict[str, float] = {}
        for element in self.all(tag):
            identifier = element.get("band_id", "")
            if not (identifier.isascii() and identifier.isdigit()) or int(identifier) >= len(BAND_IDS):
                raise ProductError(f"{self._name}: {tag} has band_id {identifier[:80]!r}, not 0 to {len(BAND_IDS) - 1}")
            band, value = BAND_IDS[int(identifier)], self._as_number(tag, (element.text or "").strip())
            if abs(value) > _LARGEST_OFFSET or found.get(band, value) != value:
                raise ProductError(f"{self._name}: {tag} of {band} is {value:g} (and {found.get(band)}); damaged?")
            found[band] = value
        return {band: found.get(band, 0.0) for band in BAND_IDS}

    def quantification(self, level: str) -> dict[str, float]:
        """Return band -> DN per unit, for AOT and WVP too where the level has them."""
        if level == "L1C":
            values = dict.fromkeys(BAND_IDS, self.number("QUANTIFICATION_VALUE"))
        else:
            values = dict.fromkeys(BAND_IDS, self.number("BOA_QUANTIFICATION_VALUE"))
            values |= {band: self.number(f"{band}_QUANTIFICATION_VALUE") for band in ("AOT", "WVP")}
        for band, value in values.items():
            if value <= 0:
                raise ProductError(f"{self._name}: the quantification value of {band} is {value:g}, not positive")
        return values
