"""What users write for `--triton` becomes what gRPC understands; what cannot work is refused in words."""

from __future__ import annotations

import re

import pytest

from kappamask_stream.errors import UsageError
from kappamask_stream.inference.channel import channel_arguments
from kappamask_stream.inference.endpoint import parse_endpoint

ENDPOINTS = [
    ("grpc://127.0.0.1:8001", "ipv4:127.0.0.1:8001"),
    ("grpc://127.0.0.1:8001/", "ipv4:127.0.0.1:8001"),
    ("127.0.0.1:8001", "ipv4:127.0.0.1:8001"),
    ("host.example:8001", "dns:///host.example:8001"),
    ("grpc://triton_gpu.models.svc.cluster.local.:8001", "dns:///triton_gpu.models.svc.cluster.local.:8001"),
    ("grpc://[::1]:8001", "ipv6:[::1]:8001"),
    ("grpcs://host.example:443", "dns:///host.example:443"),
    ("grpcs://10.0.0.1:443", "ipv4:10.0.0.1:443"),
    ("dns:///triton-headless:8001", "dns:///triton-headless:8001"),
    ("dns:///10.0.0.1:8001", "dns:///10.0.0.1:8001"),
    ("dns://10.96.0.10/triton:8001", "dns://10.96.0.10/triton:8001"),
    ("dns://127.0.0.1:5353/triton:8001", "dns://127.0.0.1:5353/triton:8001"),
    ("dns://[::1]:5353/triton:8001", "dns://[::1]:5353/triton:8001"),
    ("grpc://10.0.0.1:8001,10.0.0.2:8002", "ipv4:10.0.0.1:8001,10.0.0.2:8002"),
    ("grpc://10.0.0.1:8001,grpc://10.0.0.2:8001", "ipv4:10.0.0.1:8001,10.0.0.2:8001"),
    ("10.0.0.1:8001,10.0.0.2:8001", "ipv4:10.0.0.1:8001,10.0.0.2:8001"),
    ("grpc://[fd00::1]:8001,[fd00::2]:8001", "ipv6:[fd00::1]:8001,[fd00::2]:8001"),
]


@pytest.mark.parametrize(("text", "target"), ENDPOINTS)
def test_an_endpoint_becomes_a_target(text: str, target: str) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint.target == target
    assert endpoint.tls is text.startswith("grpcs://")
    assert str(endpoint) == text


NO_ENDPOINTS = [
    *("", "host", "grpc://", "grpc://host", "grpc://host:", "grpc://host:port", "grpc://host:0", "grpc://host:99999"),
    *("http://host:8000", "https://host:443", "unix:///run/triton.sock", "xds:///triton", "grpc:host:8001"),
    *("grpc://host:8001/v2", "grpc://host:8001?x=1", "grpc://ho st:8001", "grpc://-h:8001", "grpc://[::1]8001"),
    *("grpc://[fe80::1%25eth0]:8001", "grpc://höst:8001", "grpc://::1:8001", "grpc://host:8001,", ",", "grpc://h:+1"),
    *("dns://triton:8001", "dns:triton:8001", "dns:///triton", "dns://nameserver/triton:8001", "dns:///a:1,b:2"),
    *("grpc://a:1,grpcs://b:1", "grpc://a:1,http://b:1", "grpc://10.0.0.1:8001\n"),
]


@pytest.mark.parametrize("text", NO_ENDPOINTS)
def test_what_is_no_endpoint_is_a_mistake_of_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--triton .* is no endpoint: give grpc://HOST:PORT, e\.g\. "):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grpc://a:8001,b:8001", "takes several addresses, but one name only; .*one DNS name .* dns:///NAME:PORT"),
        ("grpc://10.0.0.1:8001,b:8001", "one name only"),
        ("grpc://10.0.0.1:8001,[::1]:8001", "several IPv4 or several IPv6 addresses, not both at once"),
        ("grpcs://10.0.0.1:8001,10.0.0.2:8001", "checked against one name; .* grpcs://NAME:PORT"),
    ],
)
def test_lists_that_grpc_cannot_do_are_refused_with_what_can_be_done(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_endpoint(text)


@pytest.mark.parametrize("text", ["grpc://me:secret@host:8001", "grpcs://secret@host:8001", "dns://secret@x/host:8001"])
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="is no endpoint") as caught:
        parse_endpoint(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "one", "loopback"),
    [
        ("grpc://127.0.0.1:1", True, True),
        ("grpc://[::1]:1", True, True),
        ("grpc://127.0.0.1:1,127.0.0.2:1", False, True),
        ("grpc://127.0.0.1:1,10.0.0.1:1", False, False),
        ("grpc://localhost:1", False, True),
        ("grpc://localhost.example:1", False, False),
        ("dns://10.0.0.1/localhost:1", False, False),
        ("grpc://10.0.0.1:1", True, False),
        ("grpc://triton:1", False, False),
    ],
)
def test_what_an_endpoint_stands_for(text: str, *, one: bool, loopback: bool) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.is_one_server, endpoint.is_loopback) == (one, loopback)


def test_all_arguments_that_matter_are_set() -> None:
    balanced, one = (dict(channel_arguments(120.0, balanced=balanced)) for balanced in (True, False))
    assert balanced["grpc.max_send_message_length"] == 2**31 - 1
    assert balanced["grpc.max_receive_message_length"] == 16 << 20
    assert (balanced["grpc.lb_policy_name"], one["grpc.lb_policy_name"]) == ("round_robin", "pick_first")
    assert balanced["grpc.enable_http_proxy"] == 0
    assert balanced["grpc.dns_min_time_between_resolutions_ms"] == 5_000
    assert {name for name, _ in channel_arguments(1.0) if re.search("reconnect", name)}


@pytest.mark.parametrize(("infer_timeout_s", "keepalive_s"), [(1.0, 20), (120.0, 30), (600.0, 150)])
def test_pings_are_too_rare_for_a_server_to_take_offence_before_a_request_times_out(
    infer_timeout_s: float, keepalive_s: int
) -> None:
    assert dict(channel_arguments(infer_timeout_s))["grpc.keepalive_time_ms"] == keepalive_s * 1000
