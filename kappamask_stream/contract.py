"""The contract between client and server: bands, grids, classes and arithmetic of one served model.

A `ModelContract` travels as JSON in the Triton model configuration (``parameters["contract"]``). It is the
only place that knows a model's bands, tile shapes and classes; the client serves any network deployed with
one. Standard library only: the server's environment imports this module too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from kappamask_stream.errors import ContractError

#: Version of the JSON document, ``(major, minor)``. A reader accepts every minor version of its own major
#: version: within one, fields are only added, with defaults, and unknown fields are ignored.
SCHEMA_VERSION = (1, 2)

#: Key of the contract in a Triton model configuration's ``parameters``.
PARAMETER_KEY = "contract"

#: LABELS value with which a server marks a tile that had any non-finite value.
FAULT_LABEL = 255

DNUnit = Literal["full_scale", "quantification"]
OffsetRule = Literal["reflectance", "none"]


@dataclass(frozen=True, kw_only=True)
class BandGroup:
    """The bands of one resolution: one UINT16 input tensor ``[N, bands, height, width]``.

    Attributes
    ----------
    gsd_m : ground sampling distance in metres of the pixels, and of the files that are read.
    bands : band names in the order of the tensor's second axis, e.g. ``("B02", "B03")``.
    tile : height and width of a tile in pixels of this resolution.
    stride : distance between two tiles in pixels of this resolution.
    file_gsd_m : of the files, where they are read at half their resolution: the low-pass band of JPEG 2000's 5/3
        wavelet, whose pixels stand a quarter of a pixel above and left of where means of 2 x 2 would. None: the files
        are of `gsd_m`. Since schema 1.2; a client that does not know it finds no such tensor in the model, and says so.
    """

    gsd_m: int
    bands: tuple[str, ...]
    tile: int
    stride: int
    file_gsd_m: int | None = None

    @property
    def tensor(self) -> str:
        """Name of the input tensor, e.g. ``DN_10M``; of files at half resolution ``DN_20M_OF_10M``."""
        return f"DN_{self.gsd_m}M" if self.file_gsd_m is None else f"DN_{self.gsd_m}M_OF_{self.file_gsd_m}M"


@dataclass(frozen=True, kw_only=True)
class MaskClass:
    """One class of the mask: its pixel value, its name, its colour as 8-bit red, green, blue."""

    value: int
    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ModelContract:
    """What a client must know to use a served model.

    Attributes
    ----------
    name : Triton model name, ``<family>_<level>_<architecture>[_<precision>]``.
    family : ``kappamask``, ``csmask`` or your own.
    level : product level the network was trained on, ``L1C`` or ``L2A``.
    architecture : as users name it, e.g. ``DeepLabv3Plus``.
    precision : ``f32``, ``bf16`` or ``fp16``.
    gsd_m : ground sampling distance of the mask, metres.
    tile_size : height and width of a tile of the mask, pixels.
    margin : pixels that are dropped on each inner edge of a tile (`crop`) or blended (`blend`).
    inputs : one group per resolution and way of reading, finest files first.
    channels : bands in the order in which the network sees them; OFFSET and SCALE follow it.
    divisors : per channel, the value that becomes 1.0: see `dn_unit`.
    dn_unit : ``full_scale``: x = DN / (65535 * divisor); ``quantification``: x = DN / (the product's
        quantification value * divisor), that is, reflectance for a divisor of 1.
    offset_rule : ``reflectance``: the product's additive offset goes to every channel named ``B…``.
    classes : all values that the mask can hold.
    nodata_class : value of pixels without data.
    probability_classes : class values in the order of PROBABILITIES' second axis, ascending.
    suffix : the mask's file name ends in ``_<suffix>_<gsd>m``.
    max_batch : largest batch that the server forms.
    instances : model instances that the server runs.
    weights_sha256 : of the weights file the graph was built from, hexadecimal.
    weights_source : where the weights come from and under which licence, for people.
    min_agreement : share of pixels whose class equals float32's below which it must not be served.
    measured_agreement : that share as measured on the worst tile of the precision's reference tiles; None where
        nobody has measured it. Since schema 1.1.
    """

    name: str
    family: str
    level: str
    architecture: str
    precision: str
    gsd_m: int
    tile_size: int
    margin: int
    inputs: tuple[BandGroup, ...]
    channels: tuple[str, ...]
    divisors: tuple[float, ...]
    dn_unit: DNUnit
    offset_rule: OffsetRule
    classes: tuple[MaskClass, ...]
    nodata_class: int
    probability_classes: tuple[int, ...]
    suffix: str
    max_batch: int
    instances: int
    weights_sha256: str
    weights_source: str
    min_agreement: float = 1.0
    measured_agreement: float | None = None
    schema_version: tuple[int, int] = field(default=SCHEMA_VERSION)

    def __post_init__(self) -> None:
        """Refuse a contract that contradicts itself.

        Raises
        ------
        ContractError
            With the two values that disagree.
        """
        read = sorted(band for group in self.inputs for band in group.bands)
        if read != sorted(self.channels):
            raise ContractError(f"contract of {self.name}: the inputs hold {read}, the channels {self.channels}")
        if len(self.divisors) != len(self.channels):
            raise ContractError(
                f"contract of {self.name}: {len(self.channels)} channels but {len(self.divisors)} divisors"
            )
        if not 0 <= 2 * self.margin < self.tile_size:
            raise ContractError(
                f"contract of {self.name}: margin {self.margin} does not fit tile size {self.tile_size}"
            )
        read_as = [(band, group.gsd_m) for group in self.inputs for band in group.bands]
        twice = {entry for entry in read_as if read_as.count(entry) > 1}
        if twice or len({group.tensor for group in self.inputs}) < len(self.inputs):
            raise ContractError(
                f"contract of {self.name}: bands {sorted(twice)} stand in two groups, or two groups of "
                f"{[group.tensor for group in self.inputs]} have one name"
            )
        for group in self.inputs:
            if group.file_gsd_m is not None and 2 * group.file_gsd_m != group.gsd_m:
                raise ContractError(
                    f"contract of {self.name}: files of {group.file_gsd_m} m read at half resolution have pixels of "
                    f"{2 * group.file_gsd_m} m, the group has {group.gsd_m} m"
                )
            if group.stride * group.gsd_m != self.stride * self.gsd_m:
                raise ContractError(
                    f"contract of {self.name}: {group.tensor} moves {group.stride * group.gsd_m} m a tile, "
                    f"the mask {self.stride * self.gsd_m} m"
                )
        values = {c.value for c in self.classes}
        missing = ({self.nodata_class} | set(self.probability_classes)) - values
        if missing:
            raise ContractError(f"contract of {self.name}: no class is named for values {sorted(missing)}")
        if list(self.probability_classes) != sorted(self.probability_classes):
            raise ContractError(f"contract of {self.name}: probability classes are not ascending")

    @property
    def stride(self) -> int:
        """Distance between two tiles in pixels of the mask."""
        return self.tile_size - 2 * self.margin

    @property
    def tile_bytes(self) -> int:
        """Bytes of one tile's DN tensors on the wire."""
        return sum(2 * len(g.bands) * g.tile * g.tile for g in self.inputs)

    def sha256(self) -> str:
        """Digest of the canonical JSON: part of a mask's fingerprint."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Write the canonical JSON document (sorted keys, no white space)."""
        document = asdict(self)
        for group in document["inputs"]:
            if group["file_gsd_m"] is None:  # documents of before schema 1.2 keep their digest
                del group["file_gsd_m"]
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ModelContract:
        """Read a contract written by this or a compatible version.

        Raises
        ------
        ContractError
            If it is no JSON object, of another major schema version, or lacks or mistypes a field.
        """
        try:
            document = json.loads(text)
            version = tuple(document["schema_version"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ContractError(f"the model's contract is not a contract document: {error!r}") from error
        if len(version) != len(SCHEMA_VERSION) or version[0] != SCHEMA_VERSION[0]:
            raise ContractError(
                f"the model's contract has schema version {'.'.join(map(str, version))}, this client reads "
                f"{SCHEMA_VERSION[0]}.x: update whichever is older (client or model repository)"
            )
        try:
            return cls(**_typed(document))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ContractError(f"the model's contract cannot be read: {error!r}") from error

    def differences(self, other: ModelContract) -> list[str]:
        """Name the fields in which two contracts differ, with both sides, for people."""
        return [
            f"{f.name}: {getattr(self, f.name)!r} != {getattr(other, f.name)!r}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]


def _typed(document: dict[str, Any]) -> dict[str, Any]:
    """Keep the known fields of a JSON document and give them the types of the dataclasses."""
    known = {f.name: document[f.name] for f in fields(ModelContract) if f.name in document}
    known["inputs"] = tuple(
        BandGroup(
            gsd_m=int(g["gsd_m"]),
            bands=_strings(g["bands"]),
            tile=_positive(g["tile"]),
            stride=_positive(g["stride"]),
            file_gsd_m=None if g.get("file_gsd_m") is None else _positive(g["file_gsd_m"]),
        )
        for g in known["inputs"]
    )
    known["classes"] = tuple(
        MaskClass(value=_uint8(c["value"]), name=str(c["name"]), colour=_colour(c["colour"])) for c in known["classes"]
    )
    known["channels"] = _strings(known["channels"])
    known["divisors"] = tuple(float(v) for v in known["divisors"])
    known["probability_classes"] = tuple(_uint8(v) for v in known["probability_classes"])
    known["schema_version"] = tuple(int(v) for v in known["schema_version"])
    for name in ("name", "family", "level", "architecture", "precision", "suffix", "weights_sha256"):
        if not isinstance(known[name], str):
            raise TypeError(f"{name} is not a string")
    for name in ("gsd_m", "tile_size", "max_batch", "instances"):
        known[name] = _positive(known[name])
    known["margin"] = int(known["margin"])
    known["nodata_class"] = _uint8(known["nodata_class"])
    if "min_agreement" in known:
        known["min_agreement"] = _share(known["min_agreement"])
    if known.get("measured_agreement") is not None:
        known["measured_agreement"] = _share(known["measured_agreement"])
    for name, allowed in (
        ("dn_unit", ("full_scale", "quantification")),
        ("offset_rule", ("reflectance", "none")),
    ):
        if known[name] not in allowed:
            raise ValueError(f"{name} is {known[name]!r}, not one of {allowed}")
    return known


def _strings(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        raise TypeError(f"{values!r} is not a list of strings")
    return tuple(values)


def _positive(value: Any) -> int:
    if int(value) <= 0 or int(value) > 2**16:
        raise ValueError(f"{value!r} is not between 1 and 65536")
    return int(value)


def _share(value: Any) -> float:
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{value!r} is not between 0 and 1")
    return float(value)


def _uint8(value: Any) -> int:
    if not 0 <= int(value) < FAULT_LABEL:
        raise ValueError(f"class value {value!r} is not between 0 and 254")
    return int(value)


def _colour(values: Any) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in values)
    if not all(0 <= v <= 255 for v in (red, green, blue)):  # noqa: PLR2004
        raise ValueError(f"colour {values!r} is not 8-bit")
    return red, green, blue
