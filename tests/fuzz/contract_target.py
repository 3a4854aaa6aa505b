"""The contract that a server's model carries: `kappamask_stream.contract.ModelContract.from_json`."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import ContractError
from kappamask_stream.plain_text import is_plain
from tests.fuzz.json_mutation import mutated

if TYPE_CHECKING:
    import random

_CONTRACT = {
    "name": "csmask_l2a", "family": "csmask", "level": "L2A", "architecture": "csmask", "precision": "f32", "gsd_m": 20,
    "tile_size": 256, "margin": 26,
    "inputs": [
        {"gsd_m": 20, "bands": ["B02", "B03"], "tile": 256, "stride": 204},
        {"gsd_m": 60, "bands": ["B01"], "tile": 85, "stride": 68},
    ],
    "channels": ["B01", "B02", "B03"], "divisors": [1.0, 0.5, 2], "dn_unit": "quantification",
    "offset_rule": "reflectance",
    "classes": [
        {"value": 0, "name": "UNDEFINED", "colour": [0, 0, 0]}, {"value": 1, "name": "CLEAR", "colour": [1, 2, 3]},
        {"value": 5, "name": "MISSING", "colour": [255, 255, 255]},
    ],
    "nodata_class": 5, "probability_classes": [0, 1], "suffix": "KZ", "max_batch": 8, "instances": 2,
    "weights_sha256": "0" * 64, "weights_source": "invented", "min_agreement": 0.99, "measured_agreement": None,
    "schema_version": [1, 2],
}  # fmt: skip

#: A contract takes a megabyte.
LONGEST = 1 << 16


def seeds() -> list[bytes]:
    """Return a sound contract, and one with each field replaced by what may break a reader."""
    reduced = [{"gsd_m": 20, "bands": ["B02"], "tile": 256, "stride": 204, "file_gsd_m": 10}]
    found = [_CONTRACT, {**_CONTRACT, "inputs": reduced, "channels": ["B02"], "divisors": [1]}]
    for name in _CONTRACT:
        found += [{**_CONTRACT, name: value} for value in (None, True, -1, 1e300, "1", [], [[]], {}, [0] * 3)]
    texts = [json.dumps(document) for document in found]
    texts += [texts[0].replace('"margin": 26', f'"margin": {value}') for value in ("1e400", "NaN", "9" * 5000)]
    return [text.encode() for text in texts]


def large() -> dict[str, bytes]:
    """Return contracts near the limit of 1 MB."""
    group = _CONTRACT["inputs"][0]  # type: ignore[index]
    channels = [f"B{number:03}" for number in range(128)]
    found = {
        "128 bands": {**_CONTRACT, "inputs": [{**group, "bands": channels}], "channels": channels, "divisors": [1.0] * 128},
        "groups": {**_CONTRACT, "inputs": [group] * 10_000},
        "divisors": {**_CONTRACT, "divisors": [0.5] * 150_000},
        "classes": {
            **_CONTRACT, "classes": [{"value": v % 256, "name": f"C{v}", "colour": [1, 2, 3]} for v in range(15_000)],
        },
        "members": {**_CONTRACT, **{f"a{number}": 1 for number in range(60_000)}},
        "a known answer": {**_CONTRACT, "canary": {"recipe": 1, "labels": "A" * (1 << 18)}},
        "a name": {**_CONTRACT, "name": "a" * 1_000_000},
    }  # fmt: skip
    texts = {what: json.dumps(document).encode() for what, document in found.items()}
    return texts | {"lists in lists": b"[" * 1_000_000, "a number": b'{"margin": ' + b"9" * 1_000_000 + b"}"}


def dictionary() -> list[bytes]:
    """Return its fields, and numbers that break readers."""
    words = (
        *(f'"{name}": ' for name in _CONTRACT),
        "1e400",
        "NaN",
        "-Infinity",
        "9" * 400,
        "true",
        "null",
        "4294967296",
    )
    return [word.encode() for word in words]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Replace something in the JSON."""
    return mutated(data, rng)


def one_input(data: bytes) -> None:
    """Read a contract; what is taken is one that a client can work with, and is written as it was read."""
    try:
        contract = ModelContract.from_json(data.decode(errors="replace"))
    except ContractError as error:
        str(error).encode()
        return
    assert ModelContract.from_json(contract.to_json()) == contract
    assert 0 <= 2 * contract.margin < contract.tile_size
    assert contract.stride >= 1
    assert all(math.isfinite(value) and value > 0 for value in contract.divisors)
    assert len({c.value for c in contract.classes}) == len(contract.classes)
    assert all(type(v) is int for v in (contract.gsd_m, contract.tile_size, contract.margin, contract.nodata_class))
    assert contract.tile_bytes < 1 << 30
    assert contract.max_batch * contract.instances <= 1 << 16
    assert all(text.isprintable() and "/" not in text and ".." not in text for text in (contract.name, contract.suffix))
    texts = (contract.family, contract.level, contract.weights_source, *contract.channels)
    assert all(is_plain(text) for text in (*texts, *(c.name for c in contract.classes)))
