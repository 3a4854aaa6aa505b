"""km_predict's configuration files: `kappamask_stream.km_predict.parse_config` and what is made of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kappamask_stream.errors import UsageError
from kappamask_stream.km_predict import KmFlags, parse_config, translate
from tests.fuzz.json_mutation import mutated

if TYPE_CHECKING:
    import random

_CONFIG = {
    "product_name": "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454", "level_product": "L2A",
    "folder_name": "data", "tile_size": 512, "overlapping": 0.0625, "resampling_method": "sinc", "batch_size": 1,
    "architecture": "DeepLabv3Plus", "aoi_geometry": "SRID=4326;POLYGON((-9 52, -8 52, -8 53, -9 52))",
    "model_weights_source": "http://example.com/weights",
}  # fmt: skip

#: Its texts may have a megabyte.
LONGEST = 1 << 16


def seeds() -> list[bytes]:
    """Return a configuration, and one with each value replaced by what may break a reader."""
    found = [{**_CONFIG, name: value} for name in _CONFIG for value in (None, True, 10**400, [], "../x", "a\nb")]
    return [json.dumps(document).encode() for document in (_CONFIG, {}, *found)]


def large() -> dict[str, bytes]:
    """Return configurations of a megabyte."""
    ring = ",".join(f"{number / 1e4} {number % 7}" for number in range(80_000))
    found = {
        "a polygon": {**_CONFIG, "aoi_geometry": f"POLYGON(({ring},0 0))"},
        "keys": {**_CONFIG, **{f"a{number}": 1 for number in range(80_000)}},
        "a name": {**_CONFIG, "product_name": "S2A_" * 250_000},
        "a folder": {**_CONFIG, "folder_name": "../" * 330_000},
        "a list": {**_CONFIG, "tile_size": [1] * 300_000},
    }
    texts = {what: json.dumps(document).encode() for what, document in found.items()}
    return texts | {"lists in lists": b"[" * 1_000_000, "a number": b'{"tile_size": ' + b"9" * 1_000_000 + b"}"}


def dictionary() -> list[bytes]:
    """Return its keys."""
    return [f'"{name}": '.encode() for name in _CONFIG]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Replace something in the JSON."""
    return mutated(data, rng)


def one_input(data: bytes) -> None:
    """Read a configuration, and translate it."""
    try:
        job = translate(parse_config(data.decode(errors="replace"), where="config.json"), KmFlags())
    except UsageError:
        return
    repr(job).encode()
