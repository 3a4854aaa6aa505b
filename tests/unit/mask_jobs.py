"""Jobs without a pipeline: what extras are given."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask_stream.destinations import FolderDestination
from kappamask_stream.extras import FinishedMask, MaskJob
from kappamask_stream.frame import MaskFrame
from kappamask_stream.grid import TileGrid, Window
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.output import OutputPlan
from kappamask_stream.product import Product
from kappamask_stream.result import Timeline
from kappamask_stream.sources import DirectorySource

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from kappamask_stream.contract import ModelContract

SHARES = {"UNDEFINED": 0.05, "CLEAR": 0.4, "CLOUD_SHADOW": 0.05, "SEMI_TRANSPARENT_CLOUD": 0.1, "CLOUD": 0.2, "MISSING": 0.2}  # fmt: skip


def make_product(contract: ModelContract, size: int = 600, **rest: Any) -> Product:
    """A product that was never read, of `size` x `size` pixels of the mask."""
    name = f"S2A_MSI{contract.level}_20221005T115411_N0400_R023_T29UNU_20221005T164454"
    files = {(band, group.gsd_m): f"{band}_{group.gsd_m}m.jp2" for group in contract.inputs for band in group.bands}
    defaults: dict[str, Any] = {
        "source": DirectorySource(Path("/nowhere") / f"{name}.SAFE"),
        "name": name,
        "level": contract.level,
        "baseline": "04.00",
        "satellite": "Sentinel-2A",
        "tile_id": "T29UNU",
        "sensing_time": "20221005T115411",
        "epsg": 32629,
        "ulx": 499980.0,
        "uly": 6100020.0,
        "sizes": {contract.gsd_m: (size, size)},
        "offsets": dict.fromkeys(("B02", "B03", "B04", "B8A", "B11", "B12"), -1000.0),
        "quantification": dict.fromkeys(("B02", "B03", "B04", "B8A", "B11", "B12"), 10000.0),
        "files": files,
        "listing": dict.fromkeys(files.values(), 1),
        "metadata_sha256": "cd" * 32,
    }
    return Product(**{**defaults, **rest})


def make_job(
    contract: ModelContract,
    folder: Path,
    *,
    size: int = 600,
    window: Window | None = None,
    options: MaskOptions | None = None,
    workers: Executor | None = None,
    resampled: tuple[str, ...] = (),
    **product: Any,
) -> MaskJob:
    """A job on a product that was never read; `window` is what the mask shows of it."""
    scene = make_product(contract, size, **product)
    window = window or Window(0, 0, size, size)
    options = options or MaskOptions()
    destination = FolderDestination(folder)
    plan = OutputPlan.of(scene, contract, options, destination, resampled=resampled)
    frame = MaskFrame(
        window=window,
        ulx=scene.ulx + window.col * contract.gsd_m,
        uly=scene.uly - window.row * contract.gsd_m,
        gsd_m=contract.gsd_m,
        epsg=scene.epsg,
    )
    return MaskJob(
        product=scene,
        contract=contract,
        options=options,
        frame=frame,
        grid=TileGrid.of(contract, size, size),
        stem=plan.stem,
        tags=plan.tags,
        destination=destination,
        workers=workers or ThreadPoolExecutor(1),
    )


def make_finished(**rest: Any) -> FinishedMask:
    """A mask whose pixels are all decided."""
    defaults: dict[str, Any] = {
        "cog": [b"II*\0", b"the mask"],
        "quicklook_pixels": np.full((60, 60), 1, np.uint8),
        "classes": SHARES,
        "timeline": Timeline(spans={"read": [(0.0, 0.5)], "infer": [(0.5, 2.0), (0.75, 1.5)]}, seconds=2.5),
        "tiles": 9,
        "tiles_inferred": 7,
        "tiles_empty": 2,
        "bytes_read": 12_345_678,
        "retries": 1,
    }
    return FinishedMask(**{**defaults, **rest})
