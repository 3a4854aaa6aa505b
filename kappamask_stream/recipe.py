"""What decides a mask's pixels, in words and as a fingerprint. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.mask_options import MaskOptions
    from kappamask_stream.product import Product


def recipe(contract: ModelContract, options: MaskOptions) -> dict[str, str]:
    """Return everything but the product that decides a mask's pixels."""
    said = {
        "model": contract.name,
        "weights_sha256": contract.weights_sha256,
        # How many instances a server runs, and its batches, are the operator's business: the mask is the same.
        "contract_sha256": replace(contract, max_batch=1, instances=1).sha256(),
        "radiometry": options.radiometry,
        "mosaic": options.mosaic,
    }
    # Only where they are set: the fingerprint of a plain mask stays what it was before there were these.
    if options.dilate:
        said["dilate"] = ",".join(f"{name}={metres:g}" for name, metres in options.dilate)
    if options.aoi is not None:
        said["aoi"] = options.aoi.identity
    return said


def digest(ingredients: Mapping[str, str]) -> str:
    """Return SHA-256 over what decides a mask's pixels, hexadecimal."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def offsets_text(product: Product, contract: ModelContract, options: MaskOptions) -> str:
    """Say which offsets were added to the digital numbers: ``B02 -1000, B03 -1000``; of km_predict, its own way."""
    if options.radiometry != "corrected":
        return "as km_predict"
    bands = [band for group in contract.inputs for band in group.bands]
    said = [f"{band} {product.offsets[band]:g}" for band in bands if product.offsets.get(band)]
    return ", ".join(said) or "none"
