"""Configurations to read, ``triton/generated``: what `models build` writes, of networks that anybody can name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from server_models import csmask, kappamask, tensorrt
from server_models.configuration import config_pbtxt
from server_models.published_widths import ZeroWeights
from server_models.repository import BATCH_AND_INSTANCES

if TYPE_CHECKING:
    from pathlib import Path

    from server_models.hdf5_weights import KerasWeights

_ENSEMBLE = "kappamask_l2a_deeplabv3plus_fp16"
#: In the place of digests of weights and files: nobody's are in the examples.
_NO_DIGEST = "0" * 64


def write_examples(folder: Path) -> list[Path]:
    """Write csmask's configurations, and for TensorRT, which takes float16 only, a KappaMask's."""
    made: dict[str, dict[str, str]] = {}
    for flavour in ("python", "onnxruntime"):
        contracts = [csmask.published_contract(level) for level in ("L1C", "L2A")]
        made[flavour] = {contract.name: config_pbtxt(contract, flavour) for contract in contracts}
    made["tensorrt"] = _tensorrt_example()
    written = []
    for flavour, configs in made.items():
        for name, text in configs.items():
            path = folder / flavour / name / "config.pbtxt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            written.append(path)
    return written


def _tensorrt_example() -> dict[str, str]:
    from server_models.float16_cut import cut

    max_batch, instances = BATCH_AND_INSTANCES["tensorrt"]
    contract = replace(kappamask.layout(_ENSEMBLE, _NO_DIGEST), max_batch=max_batch, instances=instances)
    graph = kappamask.build_graph(contract, cast("KerasWeights", ZeroWeights(contract.architecture)))
    return tensorrt.configurations(contract, dict(cut(graph).items()), _NO_DIGEST)
