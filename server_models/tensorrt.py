"""Flavour ``tensorrt``: an ensemble of three models on Triton's onnxruntime backend; TensorRT runs the float16 one.

No model here has run on a GPU yet. What decides that it cannot be wrong without a word:

* TensorRT is given float16 nodes only (`float16_cut`), so there is no float32 that it could round, to TF32 or float16.
* No ``precision_mode``: without one onnxruntime (1.18, microsoft/onnxruntime#19695) builds a strongly typed network,
  which keeps the file's types and is the only kind that TensorRT 11 knows. An older one fails while it loads.
* Profiles name every input of the network; onnxruntime builds the engine while the model loads, and refuses to load it
  if a dynamic input has no profile (microsoft/onnxruntime#17007).
* The cached engine's file is named by onnxruntime after the names in the graph, not its weights: other weights would be
  served by the old engine. So the folder's name holds the digest of the network's file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.contract import PARAMETER_KEY
from server_models.configuration import ARENA, CUDA_OPTIONS, QUEUE_DELAY_US, Tensor, filled, wire_inputs, wire_outputs
from server_models.float16_cut import CLASSES, NETWORK, PREPROCESSING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from kappamask_stream.contract import ModelContract

#: Batch and instances; guesses until `benchmarks/gpu/config_sweep.py` has run on a GPU with this flavour.
MAX_BATCH, INSTANCES = 8, 2

#: Where engines and timings are kept, in the container; the folder must be there and Triton must be able to write it.
ENGINE_CACHE = "/var/cache/kappamask-tensorrt"
_DIGITS = 16
#: GPU memory that TensorRT may use while it computes, bytes.
_WORKSPACE = 4 << 30

#: Options that Triton's onnxruntime backend takes for its accelerator ``tensorrt``; it refuses to load a model with any
#: other. From triton-inference-server/onnxruntime_backend, src/onnxruntime.cc (LoadModel) and README.md ("Parameter
#: mapping") as of 2025: those without ``trt_`` and the engine cache since #47 (2021), the others since #237 (2024).
#: Options of onnxruntime that are missing here do not pass, ``trt_op_types_to_exclude`` above all.
BACKEND_OPTIONS = frozenset(
    {
        "precision_mode",
        "max_workspace_size_bytes",
        "int8_calibration_table_name",
        "int8_use_native_calibration_table",
        "trt_max_partition_iterations",
        "trt_min_subgraph_size",
        "trt_dla_enable",
        "trt_dla_core",
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
        "trt_engine_cache_prefix",
        "trt_dump_subgraphs",
        "trt_force_sequential_engine_build",
        "trt_context_memory_sharing_enable",
        "trt_layer_norm_fp32_fallback",
        "trt_timing_cache_enable",
        "trt_timing_cache_path",
        "trt_force_timing_cache",
        "trt_detailed_build_log",
        "trt_build_heuristics_enable",
        "trt_sparsity_enable",
        "trt_builder_optimization_level",
        "trt_auxiliary_streams",
        "trt_tactic_sources",
        "trt_extra_plugin_lib_paths",
        "trt_profile_min_shapes",
        "trt_profile_max_shapes",
        "trt_profile_opt_shapes",
        "trt_cuda_graph_enable",
        "trt_dump_ep_context_model",
        "trt_ep_context_file_path",
        "trt_ep_context_embed_mode",
    }
)

#: Operators of the network's file, and the types with which onnx-tensorrt takes them (docs/operators.md, TensorRT 8.4
#: and later): all of them with FP16.
SUPPORTED_IN_FLOAT16 = frozenset(
    {
        "Add",
        "AveragePool",
        "Concat",
        "Conv",
        "Expand",
        "Gather",
        "GlobalAveragePool",
        "LeakyRelu",
        "MaxPool",
        "Pad",
        "Resize",
    }
)

_KINDS = {1: "TYPE_FP32", 2: "TYPE_UINT8", 4: "TYPE_UINT16", 10: "TYPE_FP16"}


def part_name(model: str, part: str) -> str:
    """Return the Triton name of one of an ensemble's models."""
    return f"{model}-{part}"


def engine_options(name: str, inputs: Sequence[Tensor], max_batch: int, digest: str) -> dict[str, str]:
    """Return the options of the accelerator ``tensorrt`` for the network of an ensemble.

    Parameters
    ----------
    name : of the ensemble.
    inputs : of the network.
    digest : SHA-256 of the network's file.
    """

    def shapes(batch: int) -> str:
        return ",".join(f"{t.name}:{'x'.join(map(str, (batch, *t.dims)))}" for t in inputs)

    return {
        "max_workspace_size_bytes": str(_WORKSPACE),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": f"{ENGINE_CACHE}/{name}-{digest[:_DIGITS]}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": ENGINE_CACHE,
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(max_batch),
        "trt_profile_max_shapes": shapes(max_batch),
    }


def configurations(
    contract: ModelContract,
    graphs: Mapping[str, onnx.ModelProto],
    digest: str,
    *,
    queue_delay_us: int = QUEUE_DELAY_US,
) -> dict[str, str]:
    """Return the configurations of an ensemble and its three models, by model name.

    Parameters
    ----------
    graphs : of `float16_cut.cut`, by part; weights are not looked at.
    digest : SHA-256 of the network's file, which the engine's folder is named after.
    queue_delay_us : how long a batch that is not full waits for more.
    """
    written = {}
    for part, graph in graphs.items():
        inputs, outputs = _tensors(graph.graph.input), _tensors(graph.graph.output)
        accelerators = {"cuda": CUDA_OPTIONS}
        if part == NETWORK:
            engine = engine_options(contract.name, inputs, contract.max_batch, digest)
            accelerators = {"tensorrt": engine, **accelerators}
        name = part_name(contract.name, part)
        written[name] = filled(
            "onnxruntime",
            contract,
            name,
            inputs,
            outputs,
            warm_ups=range(1, contract.max_batch + 1),
            accelerators=accelerators,
            parameters=ARENA,
            # The first model makes the batches; its answers come together, so the others have nothing to wait for.
            queue_delay_us=queue_delay_us if part == PREPROCESSING else 0,
        )
    written[contract.name] = filled(
        "tensorrt",
        contract,
        contract.name,
        wire_inputs(contract),
        wire_outputs(contract),
        parameters={PARAMETER_KEY: contract.to_json()},
        steps=",\n".join(_step(contract.name, part, graphs[part]) for part in (PREPROCESSING, NETWORK, CLASSES)),
    )
    return written


def _step(name: str, part: str, model: onnx.ModelProto) -> str:
    """Return a step of an ensemble; tensors keep their names."""
    maps = [f'input_map {{ key: "{v.name}" value: "{v.name}" }}' for v in model.graph.input]
    maps += [f'output_map {{ key: "{v.name}" value: "{v.name}" }}' for v in model.graph.output]
    rows = "".join(f"\n      {row}" for row in maps)
    return f'    {{ model_name: "{part_name(name, part)}" model_version: -1{rows}\n    }}'


def _tensors(values: Sequence[onnx.ValueInfoProto]) -> list[Tensor]:
    made = []
    for value in values:
        _, *shape = value.type.tensor_type.shape.dim
        kind = _KINDS[value.type.tensor_type.elem_type]
        made.append(Tensor(name=value.name, kind=kind, dims=tuple(dim.dim_value for dim in shape)))
    return made
