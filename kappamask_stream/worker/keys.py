"""Where a worker puts masks: one folder for each way of making them, so that a name tells which mask it is. Pure.

Below OUTPUT lie ``<model>_<8 digits>/collection.json`` and ``<model>_<8 digits>/<product>/<stem>.tif``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.recipe import digest, recipe
from kappamask_stream.stac import model_file

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.mask_options import MaskOptions


def variant_of(contract: ModelContract, options: MaskOptions) -> str:
    """Return the name of the folder of all masks that are made in one way, ``csmask_l2a_1b2c3d4e``.

    The digits stand for everything but the product that decides a mask's pixels: model, weights, contract (but for
    batch sizes and instances), radiometry, mosaic, dilation and area of interest. Files that are written beside the
    mask, and how it is compressed, are not among it.

    Raises
    ------
    ContractError
        If the model's name cannot be part of a path.
    """
    model_file(contract)
    return f"{contract.name}_{digest(recipe(contract, options))[:8]}"


def place_of(output: str | Path, variant: str) -> str:
    """Return the folder, or ``s3://`` prefix, of a variant."""
    return f"{str(output).rstrip('/')}/{variant}"
