"""``kappamask-stream evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from kappamask_stream.evaluation import ClassScores, Confusion

_BLOCK_ROWS = 1024


def evaluate(
    mask: Annotated[Path, typer.Argument(help="A mask made by `run` (GeoTIFF).", readable=False)],
    labels: Annotated[
        Path, typer.Argument(help="Labels: any raster that GDAL reads, any resolution and projection.", readable=False)
    ],
    crosswalk: Annotated[
        Literal["kappamask", "scl", "cloudsen12"],
        typer.Option(help="What the label values mean: KappaMask's classes, Sen2Cor's SCL, or CloudSEN12."),
    ] = "kappamask",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare a mask with labels: confusion matrix, precision, recall, F1 and IoU per class.

    The labels are brought to the mask's grid by nearest neighbour. Pixels without a label, or without data in the
    mask, take no part.

    Example: kappamask-stream evaluate L2A_T29UNU_20221005T115411_KZ_10m.tif T29UNU_…_SCL_20m.jp2 --crosswalk scl
    """
    confusion = compare(mask, labels, crosswalk)
    typer.echo(json.dumps(confusion.to_json()) if as_json else _table(confusion))


def compare(mask: Path, labels: Path, crosswalk: str) -> Confusion:
    """Count agreement block by block on the mask's grid.

    Raises
    ------
    InputError
        If a file cannot be read, the mask is none, or the two do not share a pixel.
    """
    import numpy as np
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT
    from rasterio.windows import Window

    from kappamask_stream.errors import InputError
    from kappamask_stream.evaluation import CLASS_NAMES, IGNORED, Confusion, crosswalk_table

    table, confusion = crosswalk_table(crosswalk), Confusion()
    try:
        with (
            rasterio.open(mask) as mask_file,
            rasterio.open(labels) as label_file,
            WarpedVRT(
                label_file,
                crs=mask_file.crs,
                transform=mask_file.transform,
                height=mask_file.height,
                width=mask_file.width,
                resampling=Resampling.nearest,
                nodata=IGNORED,
            ) as aligned,
        ):
            if mask_file.dtypes[0] != "uint8":
                raise InputError(f"{mask} holds {mask_file.dtypes[0]}, a mask holds uint8: is it the first of the two?")
            nodata = CLASS_NAMES.index("MISSING")
            for row in range(0, mask_file.height, _BLOCK_ROWS):
                window = Window(0, row, mask_file.width, min(_BLOCK_ROWS, mask_file.height - row))
                masked = mask_file.read(1, window=window)
                found = aligned.read(1, window=window)
                known = (found >= 0) & (found < IGNORED)  # neither negative, nor NaN, nor beyond the table
                classes = table[np.where(known, found, IGNORED).astype(np.uint8)]
                confusion.add(classes, np.where(masked == nodata, np.uint8(IGNORED), masked))
    except rasterio.errors.RasterioError as error:
        raise InputError(f"cannot compare {mask} with {labels}: {error}") from error
    if not confusion.pixels:
        raise InputError(f"{mask} and {labels} share no labelled pixel: do they show the same place?")
    return confusion


def _table(confusion: Confusion) -> str:
    from kappamask_stream.evaluation import class_name

    lines = [f"{confusion.pixels} pixels, agreement {confusion.agreement:.4f}", ""]
    values = confusion.classes()
    lines.append("rows: labels, columns: mask".ljust(28) + "".join(f"{class_name(v)[:14]:>16}" for v in values))
    lines += [
        class_name(row).ljust(28) + "".join(f"{confusion.counts[row, column]:>16}" for column in values)
        for row in values
    ]
    lines += ["", " " * 28 + "".join(f"{name:>11}" for name in ("precision", "recall", "F1", "IoU"))]
    lines += [class_name(v).ljust(28) + _scores(confusion.scores(v)) for v in values]
    lines.append("any cloud (3 and 4)".ljust(28) + _scores(confusion.scores(3, 4)))
    return "\n".join(lines)


def _scores(scores: ClassScores) -> str:
    values = (scores.precision, scores.recall, scores.f1, scores.iou)
    return "".join(f"{'-':>11}" if v is None else f"{v:>11.4f}" for v in values)
