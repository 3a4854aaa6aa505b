"""Inference: requests and answers, the Triton client, the in-flight window and retries."""

from kappamask_stream.inference.connecting import connect, endpoint_of
from kappamask_stream.inference.retry import RetryPolicy, confirm_with_retry, infer_with_retry
from kappamask_stream.inference.triton import TritonClient
from kappamask_stream.inference.types import BatchSizes, InferenceClient, InferResult, TileRequest, Transport
from kappamask_stream.inference.window import InFlightWindow

__all__ = [
    "BatchSizes",
    "InFlightWindow",
    "InferResult",
    "InferenceClient",
    "RetryPolicy",
    "TileRequest",
    "Transport",
    "TritonClient",
    "confirm_with_retry",
    "connect",
    "endpoint_of",
    "infer_with_retry",
]
