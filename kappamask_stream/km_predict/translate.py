"""What a run of km_predict is here: product, places and options, and a word on all that no longer applies. Pure.

Every key of a configuration and every flag is either honoured or has a `Note`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kappamask_stream.km_predict.config import OVERLAPPING, RESAMPLING, TILE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kappamask_stream.km_predict.config import Architecture, KmConfig

#: km_predict's own folders, relative to where it runs.
OUTPUT_FOLDER, WEIGHTS_FOLDER = "prediction", "weights"

_HONOURED = ("product_name", "level_product", "architecture", "folder_name", "aoi_geometry")
_NO_SUB_TILES = "products are cut in memory; cm_vsm is not run, and no sub-tiles are written to disk"
#: Keys that never apply, by name.
_GONE = {
    "cm_vsm": _NO_SUB_TILES,
    "cm_vsm_executable": _NO_SUB_TILES,
    "weights": "the file's name follows from level_product and architecture",
    "features": "the bands follow from the network",
    "product": "level_product, or the product's name, tells the level",
    "data_dir": "folder_name names the folder of the products",
    "RESAMPLING_METHOD": "it is called resampling_method",
}
_TILES = (
    f"the networks are served with tiles of {TILE_SIZE} pixels that overlap by {OVERLAPPING}, and masked with those"
)


@dataclass(frozen=True, kw_only=True)
class KmFlags:
    """km_predict's command line without ``-c``, ``-product``, ``-l`` and ``-v``.

    Attributes
    ----------
    no_tiling : ``-t``.
    force : ``-f``.
    geometry : ``-g``, EWKT; takes precedence over the file's.
    tiling_output : ``-O``.
    use_cpu : ``-cpu``.
    """

    no_tiling: bool = False
    force: bool = False
    geometry: str | None = None
    tiling_output: str | None = None
    use_cpu: bool = False


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something of km_predict's that does not mean here what it meant there.

    Attributes
    ----------
    name : key or flag.
    value : as given, shortened; empty for a flag without one.
    why : what happens instead.
    """

    name: str
    value: str
    why: str

    def __str__(self) -> str:
        given = f"{self.name} {self.value}".rstrip()
        return f"{given}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class KmJob:
    """What is run. Paths are relative to where the command runs, as km_predict's were.

    Attributes
    ----------
    product_name : without ``.SAFE``.
    places : where the product may be; the first that is there counts.
    level : ``L1C`` or ``L2A``.
    architecture : of the network.
    weights : the weights file, used where it is there.
    weights_source : URL of a folder to fetch weights from; None is KappaZeta's.
    output : folder that receives ``<product>/<level>_<tile>_<time>_KZ_10m.tif`` and all else.
    aoi : EWKT, or None for the whole product.
    overwrite : True replaces masks that were made in another way.
    notes : what no longer applies, in the order of the file, then the flags.
    """

    product_name: str
    places: tuple[str, ...]
    level: str
    architecture: Architecture
    weights: str
    weights_source: str | None
    output: str
    aoi: str | None
    overwrite: bool
    notes: tuple[Note, ...]


def translate(config: KmConfig, flags: KmFlags) -> KmJob:
    """Say what a configuration and flags of km_predict mean here."""
    name = config.product.text
    folder = config.folder.rstrip("/") or ("" if config.folder else ".")
    return KmJob(
        product_name=name,
        places=tuple(f"{folder}/{name}{ending}" for ending in (".SAFE", ".zip", ".SAFE.zip")),
        level=config.product.level,
        architecture=config.architecture,
        weights=f"{WEIGHTS_FOLDER}/{config.product.level.lower()}_{config.architecture.lower()}.hdf5",
        weights_source=config.weights_source,
        output=OUTPUT_FOLDER,
        aoi=flags.geometry or config.aoi_geometry,
        overwrite=flags.force,
        notes=(*_notes_on_keys(config), *_notes_on_flags(config, flags)),
    )


def _notes_on_keys(config: KmConfig) -> Iterator[Note]:
    model = f"kappamask_{config.product.level.lower()}_{config.architecture.lower()}"
    url = f" --url {config.weights_source}" if config.weights_source else ""
    changed: dict[str, str | None] = {
        "tile_size": None if config.tile_size == TILE_SIZE else _TILES,
        "overlapping": None if config.overlapping == OVERLAPPING else _TILES,
        "resampling_method": None
        if config.resampling_method == RESAMPLING
        else f"bands of 20 m and 60 m are upsampled with {RESAMPLING}, as in the networks' training",
        "batch_size": "the server forms batches of the tiles that wait",
        "model_weights_source": f"a run downloads nothing; `kappamask-stream models fetch {model}{url}` does, once",
    }
    for key, value in config.keys.items():
        if key in _HONOURED:
            continue
        why = changed[key] if key in changed else _GONE.get(key, "is no key of km_predict's")
        if why is not None:
            yield Note(name=key, value=_short(value), why=why)


def _notes_on_flags(config: KmConfig, flags: KmFlags) -> Iterator[Note]:
    if flags.no_tiling:
        yield Note(name="-t", value="", why=f"{_NO_SUB_TILES}, so none can be used again")
    if flags.tiling_output is not None:
        yield Note(name="-O", value=_short(flags.tiling_output), why=_NO_SUB_TILES)
    if flags.use_cpu:
        why = "the server on this machine computes on the CPU anyway; a GPU is used with --triton"
        yield Note(name="-cpu", value="", why=why)
    if flags.geometry or config.aoi_geometry:
        yield Note(
            name="-g" if flags.geometry else "aoi_geometry",
            value="",
            why="the mask is cropped to the area, and outside it is MISSING (5); km_predict's had the product's size",
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"  # noqa: PLR2004 - one line of a terminal
