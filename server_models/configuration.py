"""Configurations of served models (protobuf text format of Triton's ModelConfig), written from the contract."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Literal, get_args

from kappamask_stream.contract import PARAMETER_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kappamask_stream.contract import ModelContract

Flavour = Literal["python", "onnxruntime", "tensorrt", "torch"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)

#: Requests that may wait: several clients' windows; more are refused, and clients slow down.
_QUEUE_BATCHES = 16
_QUEUE_TIMEOUT_S = 600
#: How long a batch that is not full waits for more, microseconds; `benchmarks/gpu/config_sweep.py` compares others.
QUEUE_DELAY_US = 2000

#: Options of the CUDA execution provider: TF32, its default, rounds digital numbers.
CUDA_OPTIONS = {"use_tf32": "0"}
#: Parameters of every model on the onnxruntime backend. An arena that grows in powers of two never shrinks: 1 is "as
#: requested". As an option of the accelerator it would be lost: where a model has parameters of any kind, and ours has
#: its contract, the backend writes its default over it (src/onnxruntime.cc, "Parse CUDA EP configurations directly").
ARENA = {"arena_extend_strategy": "1"}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a model.

    Attributes
    ----------
    name : the tensor's.
    kind : ``TYPE_UINT16`` and so on.
    dims : shape without the batch.
    """

    name: str
    kind: str
    dims: tuple[int, ...]


def templates() -> Path:
    """Return the folder ``triton/``: beside this package in a checkout, inside it in a wheel."""
    here = Path(__file__).resolve().parent  # the environment sees this package through a link
    packaged = here / "_triton"
    return packaged if packaged.is_dir() else here.parent / "triton"


def wire_inputs(contract: ModelContract) -> list[Tensor]:
    """Return what clients send."""
    numbers = [Tensor(name=g.tensor, kind="TYPE_UINT16", dims=(len(g.bands), g.tile, g.tile)) for g in contract.inputs]
    channels = (len(contract.channels),)
    return numbers + [Tensor(name=name, kind="TYPE_FP32", dims=channels) for name in ("OFFSET", "SCALE")]


def wire_outputs(contract: ModelContract) -> list[Tensor]:
    """Return what clients may ask for."""
    size, classes = contract.tile_size, len(contract.probability_classes)
    return [
        Tensor(name="LABELS", kind="TYPE_UINT8", dims=(size, size)),
        Tensor(name="PROBABILITIES", kind="TYPE_UINT8", dims=(classes, size, size)),
    ]


def config_pbtxt(
    contract: ModelContract,
    flavour: Flavour,
    engine: Mapping[str, str] | None = None,
    *,
    queue_delay_us: int = QUEUE_DELAY_US,
) -> str:
    """Return the text of the configuration of a model that is one folder: of every flavour but ``tensorrt``.

    Parameters
    ----------
    engine : parameters of the Python backend: engine_streams, engine_threads.
    queue_delay_us : how long a batch that is not full waits for more.
    """
    parameters = {PARAMETER_KEY: contract.to_json(), **(engine or {})}
    if flavour == "onnxruntime":
        accelerators = {"cuda": CUDA_OPTIONS}
        parameters |= ARENA
        sizes: Iterable[int] = range(1, contract.max_batch + 1)
    else:
        accelerators = {}
        sizes = [contract.max_batch if flavour == "torch" else 1]
    return filled(
        flavour,
        contract,
        contract.name,
        wire_inputs(contract),
        wire_outputs(contract),
        warm_ups=sizes,
        accelerators=accelerators,
        parameters=parameters,
        queue_delay_us=queue_delay_us,
    )


def filled(
    template: str,
    contract: ModelContract,
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    warm_ups: Iterable[int] = (),
    accelerators: Mapping[str, Mapping[str, str]] | None = None,
    parameters: Mapping[str, str],
    queue_delay_us: int = QUEUE_DELAY_US,
    steps: str = "",
) -> str:
    """Fill the template ``triton/config.<template>.pbtxt.in``.

    Parameters
    ----------
    contract : says batch and instances.
    name : the model's.
    warm_ups : batch sizes that are run before the model is ready.
    accelerators : execution providers by name, the preferred one first, with their options.
    parameters : the model's own.
    steps : of an ensemble.
    """
    text = Template((templates() / f"config.{template}.pbtxt.in").read_text())
    return text.substitute(
        name=name,
        max_batch=contract.max_batch,
        instances=contract.instances,
        inputs=",\n".join(map(_tensor, inputs)),
        outputs=",\n".join(map(_tensor, outputs)),
        warm_up=",\n".join(_warm_up(size, inputs) for size in warm_ups),
        accelerators=",\n".join(_accelerator(key, options) for key, options in (accelerators or {}).items()),
        parameters="\n".join(_parameter(key, value) for key, value in parameters.items()),
        queue_size=_QUEUE_BATCHES * contract.max_batch * contract.instances,
        queue_timeout_us=_QUEUE_TIMEOUT_S * 1_000_000,
        queue_delay_us=queue_delay_us,
        steps=steps,
    )


def _tensor(tensor: Tensor) -> str:
    return f'  {{ name: "{tensor.name}" data_type: {tensor.kind} dims: {list(tensor.dims)} }}'


def _warm_up(size: int, inputs: Sequence[Tensor]) -> str:
    rows = ",\n".join(
        f'    {{ key: "{t.name}" value: {{ data_type: {t.kind} dims: {list(t.dims)} zero_data: true }} }}'
        for t in inputs
    )
    return f'  {{ name: "zeros_{size}" batch_size: {size} count: 1 inputs [\n{rows}\n  ] }}'


def _accelerator(name: str, options: Mapping[str, str]) -> str:
    rows = "".join(f'\n    parameters {{ key: "{key}" value: {json.dumps(value)} }}' for key, value in options.items())
    return f'  {{ name: "{name}"{rows}\n  }}'


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: {json.dumps(value)} }} }}'
