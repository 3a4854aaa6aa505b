"""Triton's own words, as server 2.51 and gRPC said them, mean the right kind of error."""

from __future__ import annotations

import pytest
from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import (
    ContractError,
    InferenceTimeoutError,
    ServerError,
    ServerFaultError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from kappamask_stream.inference.grpc_errors import too_large, translated

NOBODY = "connections to all backends failing; last error: UNKNOWN: ipv4:10.0.0.1:8001: "
SSL = "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
HANDSHAKES = {
    f"{SSL}CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK": "accepted: it is of a CA that is not",
    f"{SSL}CERTIFICATE_VERIFY_FAILED: self signed certificate: OK": "accepted: it is of a CA that .*--triton-ca$",
    f"{SSL}CERTIFICATE_VERIFY_FAILED: certificate has expired: OK": "is not accepted: it has expired",
    f"{SSL}CERTIFICATE_VERIFY_FAILED: unsuitable purpose: OK": "is not accepted: unsuitable purpose$",
    f"{SSL}WRONG_VERSION_NUMBER: Invalid certificate verification context: OK": "does not speak TLS",
    "Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.": "another name",
}
SAID = [
    (
        "StatusCode.UNAVAILABLE",
        "[request id: <id_unknown>] Exceeds maximum queue size",
        ServerOverloadedError,
        r"^the queue of the server at grpc://host:8001 is full: Exceeds maximum queue size$",
    ),
    (
        "StatusCode.UNAVAILABLE",
        "[request id: tile 7] Request timeout expired",
        ServerOverloadedError,
        "queue .* is full",
    ),
    (
        "StatusCode.UNAVAILABLE",
        (
            "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:57103: recvmsg:Connection reset "
            "by peer (104)"
        ),
        ServerUnavailableError,
        "no server answers at grpc://host:8001: .*is it running and the address right",
    ),
    ("StatusCode.UNAVAILABLE", "Stream removed (Socket closed)", ServerUnavailableError, "no server answers"),
    (
        "StatusCode.UNAVAILABLE",
        (
            "errors resolving no.such.host.invalid:8001: [field:hostname lookup error:address lookup failed for "
            "no.such.host.invalid:8001: Domain name not found]"
        ),
        ServerUnavailableError,
        "no server answers",
    ),
    (
        "StatusCode.UNAVAILABLE",
        "This protocol is restricted, expecting header 'triton-grpc-protocol-kappamask-key'",
        ServerError,
        "refuses: This protocol is restricted.*ask its operator",
    ),
    (
        "StatusCode.NOT_FOUND",
        "Request for unknown model: 'csmask_l2a' is not found",
        ServerUnavailableError,
        "does not serve the model now",
    ),
    (
        "StatusCode.NOT_FOUND",
        "Request for unknown model: 'csmask_l2a' has no available versions",
        ServerUnavailableError,
        "does not serve the model now",
    ),
    (
        "StatusCode.INTERNAL",
        "Stub process 'null_l2a_0_0' is not healthy.",
        ServerUnavailableError,
        "does not serve the model now",
    ),
    ("StatusCode.CANCELLED", "CANCELLED", ServerUnavailableError, "broke off: CANCELLED; is it being restarted"),
    ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", InferenceTimeoutError, r"within 7\.5 s .*infer_timeout_s"),
    (
        "StatusCode.INVALID_ARGUMENT",
        (
            "[request id: <id_unknown>] unexpected shape for input 'DN_20M' for model 'csmask_l2a'. Expected "
            "[-1,6,256,256], got [1,6,255,256]."
        ),
        ContractError,
        r"refuses the request: unexpected shape for input 'DN_20M'",
    ),
    (
        "StatusCode.RESOURCE_EXHAUSTED",
        "CLIENT: Received message larger than max (4718592 vs. 4194304)",
        ServerError,
        "no messages of this size",
    ),
    (  # an answer's, too: it is no connection that was lost
        "StatusCode.RESOURCE_EXHAUSTED",
        "Stream removed (CLIENT: Received message larger than max (52428805 vs. 16777216))",
        ServerError,
        "52428805 vs. 16777216",
    ),
    ("StatusCode.RESOURCE_EXHAUSTED", "Failed to allocate CUDA memory", ServerOverloadedError, "has no room"),
    (
        "StatusCode.INTERNAL",
        "onnx runtime error 1: CUDA failure 700",
        ServerFaultError,
        "answered INTERNAL: onnx runtime error 1",
    ),
    ("StatusCode.INTERNAL", "CUDA error: out of memory", ServerFaultError, "answered INTERNAL: CUDA error"),
    ("StatusCode.INTERNAL", "Received RST_STREAM with error code 2", ServerUnavailableError, "broke off: .*RST"),
    ("StatusCode.UNKNOWN", "Stream removed (Deadline Exceeded)", InferenceTimeoutError, r"within 7.5 s \("),
    ("StatusCode.UNKNOWN", "Stream removed", ServerUnavailableError, "broke off: Stream removed"),
    (
        "StatusCode.UNKNOWN",
        "upstream connect error or disconnect/reset before headers. reset reason: overflow",
        ServerUnavailableError,
        "broke off: upstream connect error",
    ),
    ("StatusCode.ABORTED", "x", ServerUnavailableError, "broke off: x"),
    *(("StatusCode.UNAVAILABLE", f"{NOBODY}{said}", ServerError, text) for said, text in HANDSHAKES.items()),
    (
        "StatusCode.UNAUTHENTICATED",
        "token expired",
        ServerError,
        r"not know who asks: token expired; .*triton_token_file",
    ),
    ("StatusCode.PERMISSION_DENIED", "RBAC: access denied", ServerError, "not let us in: RBAC.*ask its operator"),
    ("StatusCode.UNIMPLEMENTED", "", ServerError, "is no Triton: it does not know its protocol"),
    ("StatusCode.UNAVAILABLE", "Too many pings", ServerUnavailableError, "no server answers"),
    (None, "got unexpected datatype FLOAT32 from numpy array", ServerFaultError, "answered without a status"),
]


@pytest.mark.parametrize(
    ("status", "message", "kind", "text"), SAID, ids=[f"{s[2].__name__}: {s[1][:40]}" for s in SAID]
)
def test_what_the_server_says_becomes(status: str | None, message: str, kind: type[ServerError], text: str) -> None:
    error = translated(InferenceServerException(msg=message, status=status), "grpc://host:8001", 7.5)
    assert type(error) is kind
    with pytest.raises(kind, match=text):
        raise error


def test_only_what_can_pass_is_worth_another_try() -> None:
    retryable = {
        kind: translated(InferenceServerException(msg=message, status=status), "grpc://host:8001", 1.0).retryable
        for status, message, kind, _ in SAID
    }
    assert {kind for kind, worth in retryable.items() if worth} == {
        ServerOverloadedError,
        ServerUnavailableError,
        InferenceTimeoutError,
    }


def test_an_exception_without_words_is_translated_too() -> None:
    assert type(translated(InferenceServerException(msg=""), "grpc://host:8001", 1.0)) is ServerFaultError


@pytest.mark.parametrize(
    ("status", "message", "size"),
    [
        (
            "RESOURCE_EXHAUSTED",
            "Stream removed (CLIENT: Received message larger than max (52428805 vs. 2097152))",
            52428805,
        ),
        ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (2097153 vs. 2097152)", 2097153),
        ("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (4718592 vs. 4194304)", None),
        ("RESOURCE_EXHAUSTED", "no memory left", None),
        ("INTERNAL", "CLIENT: Received message larger than max (2097153 vs. 2097152)", None),
    ],
)
def test_an_answer_that_is_too_large_is_told_by_our_own_limit(status: str, message: str, size: int | None) -> None:
    error = InferenceServerException(msg=message, status=f"StatusCode.{status}")
    assert too_large(error, 2 << 20) == size
