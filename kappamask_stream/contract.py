"""The contract between client and server: bands, grids, classes and arithmetic of one served model.

A `ModelContract` travels as JSON in the Triton model configuration (``parameters["contract"]``). It is the
only place that knows a model's bands, tile shapes and classes; the client serves any network deployed with
one. Standard library only: the server's environment imports this module too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from kappamask_stream.contract_fields import (
    MOST_CLASS_VALUES,
    as_choice,
    as_class_value,
    as_colour,
    as_label,
    as_name,
    as_number,
    as_positive,
    as_remark,
    as_share,
    as_text,
    as_whole,
    each,
    read_document,
    said,
)
from kappamask_stream.contract_rules import require_consistent
from kappamask_stream.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Version of the JSON document, ``(major, minor)``. A reader accepts every minor version of its own major
#: version: within one, fields are only added, with defaults, and unknown fields are ignored.
SCHEMA_VERSION = (1, 3)

_BEFORE_CANARY = (1, 2)
#: Characters of a canary's answer; those of real networks take a few thousand.
_MOST_OF_CANARY = 1 << 18

#: Key of the contract in a Triton model configuration's ``parameters``.
PARAMETER_KEY = "contract"

#: LABELS value with which a server marks a tile that had any non-finite value.
FAULT_LABEL = MOST_CLASS_VALUES

_MOST_BANDS = 128

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
class KnownAnswer:
    """What the model answers to one tile that client and server draw alike (`canary`).

    Attributes
    ----------
    recipe : which tile; a client that draws another one compares nothing.
    labels : LABELS as the float32 network gives them, bytes row by row, `FAULT_LABEL` where it is not sure itself;
        compressed with zlib, in base64.
    """

    recipe: int
    labels: str = field(repr=False)


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
    canary : answer to a tile that everybody knows, with which a server is checked; None where none was computed. Not
        part of the digest: it changes no mask. Since schema 1.3.
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
    canary: KnownAnswer | None = None
    schema_version: tuple[int, int] = field(default=SCHEMA_VERSION)

    def __post_init__(self) -> None:
        """Refuse a contract that contradicts itself.

        Raises
        ------
        ContractError
            With the two values that disagree.
        """
        require_consistent(self)

    @property
    def stride(self) -> int:
        """Distance between two tiles in pixels of the mask."""
        return self.tile_size - 2 * self.margin

    @property
    def tile_bytes(self) -> int:
        """Bytes of one tile's DN tensors on the wire."""
        return sum(2 * len(g.bands) * g.tile * g.tile for g in self.inputs)

    @property
    def answer_bytes(self) -> int:
        """Bytes of one tile's LABELS and PROBABILITIES on the wire."""
        return (1 + len(self.probability_classes)) * self.tile_size**2

    def sha256(self) -> str:
        """Digest of the canonical JSON without the canary, as of before it: part of a mask's fingerprint."""
        decisive = replace(self, canary=None, schema_version=min(self.schema_version, _BEFORE_CANARY))
        return hashlib.sha256(decisive.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Write the canonical JSON document (sorted keys, no white space)."""
        document = asdict(self)
        for group in document["inputs"]:
            if group["file_gsd_m"] is None:  # documents of before schema 1.2 keep their digest
                del group["file_gsd_m"]
        if self.canary is None:  # as do those of before schema 1.3
            del document["canary"]
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
            document = read_document(text)
            version = tuple(as_whole(part) for part in document["schema_version"])
        except (ValueError, TypeError, KeyError) as error:
            raise ContractError(f"the model's contract is not a contract document: {said(error)}") from error
        if len(version) != len(SCHEMA_VERSION) or version[0] != SCHEMA_VERSION[0]:
            raise ContractError(
                f"the model's contract has schema version {'.'.join(map(str, version[:4]))}, this client reads "
                f"{SCHEMA_VERSION[0]}.x: update whichever is older (client or model repository)"
            )
        try:
            return cls(**_typed(document))
        except ValueError as error:
            raise ContractError(f"the model's contract cannot be read: {said(error)}") from error

    def differences(self, other: ModelContract) -> list[str]:
        """Name the fields in which two contracts differ, with both sides, for people."""
        return [
            f"{f.name}: {getattr(self, f.name)!r} != {getattr(other, f.name)!r}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]


def _typed(document: dict[str, Any]) -> dict[str, Any]:
    """Keep the known fields of a JSON document and give them the types of the dataclasses."""
    missing = [f.name for f in fields(ModelContract) if f.default is MISSING and f.name not in document]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    known: dict[str, Any] = {}
    for name in (f.name for f in fields(ModelContract) if f.name in document):
        try:
            known[name] = _FIELDS[name](document[name])
        except KeyError as error:
            raise ValueError(f"{name}: {error} is missing") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{name}: {error}") from error
    return known


def _group(value: Any) -> BandGroup:
    return BandGroup(
        gsd_m=as_positive(value["gsd_m"]),
        bands=_bands(value["bands"]),
        tile=as_positive(value["tile"]),
        stride=as_positive(value["stride"]),
        file_gsd_m=None if value.get("file_gsd_m") is None else as_positive(value["file_gsd_m"]),
    )


def _class(value: Any) -> MaskClass:
    return MaskClass(
        value=as_class_value(value["value"]), name=as_label(value["name"]), colour=as_colour(value["colour"])
    )


def _canary(value: Any) -> KnownAnswer | None:
    if value is None:
        return None
    return KnownAnswer(recipe=as_positive(value["recipe"]), labels=as_text(value["labels"], _MOST_OF_CANARY))


_bands = partial(each, as_label, most=_MOST_BANDS)
#: How each field is read; what is wrong with a value is raised, and said with the field's name.
_FIELDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("name", "suffix"), as_name),
    **dict.fromkeys(("family", "level", "architecture", "precision", "weights_sha256"), as_text),
    "weights_source": as_remark,
    **dict.fromkeys(("gsd_m", "tile_size", "max_batch", "instances"), as_positive),
    "margin": as_whole,
    "inputs": partial(each, _group, most=_MOST_BANDS),
    "channels": _bands,
    "divisors": partial(each, as_number, most=_MOST_BANDS),
    "dn_unit": partial(as_choice, allowed=get_args(DNUnit)),
    "offset_rule": partial(as_choice, allowed=get_args(OffsetRule)),
    "classes": partial(each, _class, most=FAULT_LABEL),
    "nodata_class": as_class_value,
    "probability_classes": partial(each, as_class_value, most=FAULT_LABEL),
    "min_agreement": as_share,
    "measured_agreement": lambda value: None if value is None else as_share(value),
    "canary": _canary,
    "schema_version": partial(each, as_whole, most=len(SCHEMA_VERSION)),
}
