"""The STAC Item of a model, with the machine learning model extension (MLM 1.5.2). Pure."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import ContractError
from kappamask_stream.stac.vocabulary import (
    MISSION_BBOX,
    MISSION_START,
    STAC_VERSION,
    classes,
    extensions,
)

if TYPE_CHECKING:
    from kappamask_stream.contract import BandGroup, ModelContract

#: What becomes a file name, and what the extension allows as ``mlm:name``.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,126}[A-Za-z0-9]", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ADDRESS = re.compile(r"https?://[^\s,;)<>\"']+")
#: The end that the extension's best practices give to models whose validity does not end.
_FAR_FUTURE = "9999-12-31T23:59:59Z"
_TASKS = ["semantic-segmentation"]


def model_file(contract: ModelContract) -> str:
    """Return where a model's Item lies, relative to the Collection: ``models/<name>-<weights>.json``.

    Raises
    ------
    ContractError
        If the model's name cannot be part of a file name.
    """
    return f"models/{_model_id(contract)}.json"


def model_item(contract: ModelContract) -> dict[str, Any]:
    """Describe a model: what it reads, what it answers, where its weights come from.

    Served settings (batch sizes, instances) are the operator's business and not told; so the same network is the
    same Item wherever it runs.

    Raises
    ------
    ContractError
        If the model's name cannot be part of a file name.
    """
    west, south, east, north = MISSION_BBOX
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": extensions("classification", "file", "mlm"),
        "id": _model_id(contract),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": list(MISSION_BBOX),
        "properties": {
            "title": f"{contract.family} {contract.architecture or 'network'} for Sentinel-2 {contract.level}".strip(),
            "description": f"Classifies each pixel of Sentinel-2 {contract.level} products at {contract.gsd_m} m.",
            "datetime": None,
            "start_datetime": MISSION_START,
            "end_datetime": _FAR_FUTURE,
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "gsd": contract.gsd_m,
            "bands": _bands(contract),
            "mlm:name": contract.name,
            "mlm:architecture": contract.architecture or "unknown",
            "mlm:tasks": _TASKS,
            "mlm:framework": "ONNX",
            "mlm:pretrained": True,
            "mlm:pretrained_source": contract.weights_source,
            "mlm:input": [*(_pixels(contract, group) for group in contract.inputs), *_vectors(contract)],
            "mlm:output": _outputs(contract),
            "mlm:hyperparameters": {
                "margin": contract.margin,
                "dn_unit": contract.dn_unit,
                "offset_rule": contract.offset_rule,
                "channels": list(contract.channels),
                "divisors": list(contract.divisors),
            },
        },
        # No member of the Collection, which holds masks.
        "links": [{"rel": "root", "href": "../collection.json", "type": "application/json"}],
        "assets": {"weights": _weights(contract)},
    }


def _model_id(contract: ModelContract) -> str:
    if _NAME.fullmatch(contract.name) is None:
        raise ContractError(
            f"the model's name {contract.name[:80]!r} cannot be part of a file name: it must be 2 to 128 letters, "
            "digits, dots, dashes and underscores and begin with a letter"
        )
    known = _SHA256.fullmatch(contract.weights_sha256)
    return f"{contract.name}-{contract.weights_sha256[:12]}" if known else contract.name


def _bands(contract: ModelContract) -> list[dict[str, Any]]:
    """Return the bands that ``mlm:input`` names; the core wants them at the asset too where the Item has them."""
    return [
        {"name": band, "data_type": "uint16", "nodata": 0, "gsd": group.gsd_m}
        for group in contract.inputs
        for band in group.bands
    ]


def _pixels(contract: ModelContract, group: BandGroup) -> dict[str, Any]:
    files = f"{group.file_gsd_m} m files at half resolution" if group.file_gsd_m else f"{group.gsd_m} m files"
    return {
        "name": group.tensor,
        "bands": list(group.bands),
        "description": f"DN of the {files}; tiles start at multiples of {group.stride} pixels.",
        "input": {
            "shape": [-1, len(group.bands), group.tile, group.tile],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "uint16",
        },
        "pre_processing_function": {
            "format": "numpy",
            "expression": f"maximum(DN + OFFSET, 0) * SCALE after upsampling to {contract.gsd_m} m; in the graph",
        },
    }


def _vectors(contract: ModelContract) -> list[dict[str, Any]]:
    """Return the inputs that are no pixels: the product's radiometry, one number a channel."""
    said = {
        "OFFSET": "Added to the DN of each channel, from the product's metadata.",
        "SCALE": "Factor of each channel, from the product's metadata and the model's divisors.",
    }
    structure = {"shape": [-1, len(contract.channels)], "dim_order": ["batch", "channel"], "data_type": "float32"}
    return [{"name": name, "bands": [], "description": text, "input": structure} for name, text in said.items()]


def _outputs(contract: ModelContract) -> list[dict[str, Any]]:
    # Without `nodata`, which the extension's own library does not know.
    listed = [{field: value for field, value in entry.items() if field != "nodata"} for entry in classes(contract)]
    size, known = contract.tile_size, {entry["value"]: entry for entry in listed}
    likely = [known[value] for value in contract.probability_classes]
    return [
        {
            "name": "LABELS",
            "tasks": _TASKS,
            "result": {"shape": [-1, size, size], "dim_order": ["batch", "height", "width"], "data_type": "uint8"},
            "classification:classes": list(known.values()),
        },
        {
            "name": "PROBABILITIES",
            "tasks": _TASKS,
            "description": "255 is a probability of 1; computed only where asked for.",
            "result": {
                "shape": [-1, len(likely), size, size],
                "dim_order": ["batch", "class", "height", "width"],
                "data_type": "uint8",
            },
            "classification:classes": likely,
        },
    ]


def _weights(contract: ModelContract) -> dict[str, Any]:
    """Return the asset of the weights: an address where the contract knows one, else their name by hash (RFC 6920)."""
    asset: dict[str, Any] = {
        "href": f"urn:kappamask-stream:model:{contract.name}",
        "type": "application/octet-stream",
        "title": "Weights that the served graph was built from",
        "description": contract.weights_source or "Where they come from, the model does not say.",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": "weights",
        "bands": _bands(contract),
    }
    if _SHA256.fullmatch(contract.weights_sha256):
        digest = base64.urlsafe_b64encode(bytes.fromhex(contract.weights_sha256)).decode().rstrip("=")
        asset["href"] = f"ni:///sha-256;{digest}"
        asset["file:checksum"] = f"1220{contract.weights_sha256}"
    if (address := _ADDRESS.search(contract.weights_source)) is not None:
        asset["href"] = address[0].rstrip(".")
    return asset
