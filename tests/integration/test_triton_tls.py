"""TLS, certificates and tokens: what is right works, what is wrong is said in words, and at once."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import traceback
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tritonclient._request import Request

from kappamask_stream.errors import ServerError, ServerUnavailableError, UsageError
from kappamask_stream.inference import InFlightWindow, RetryPolicy, TritonClient, connect, infer_with_retry
from kappamask_stream.inference.security import Security
from kappamask_stream.inference.token import BearerToken
from kappamask_stream.models import ModelChoice, ModelPool
from kappamask_stream.settings import Settings
from tests.integration.kserve_servers import Replica, serving
from tests.integration.local_state import CLI
from tests.integration.tiles import tile_for
from tests.integration.tls_files import Authority, Pair

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "ours").mkdir()
    return Authority(tmp_path / "ours")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    (tmp_path / "strange").mkdir()
    return Authority(tmp_path / "strange")


async def refused(settings: Settings, **rest: Any) -> str:
    """Try to connect with all the patience there is; the refusal has to come at once."""
    async with asyncio.timeout(30):
        with pytest.raises(ServerError) as caught:
            await connect(settings, "test_l2a", server_wait_s=600.0)
    assert not caught.value.retryable
    return str(caught.value)


# Servers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_server_is_recognised_by_its_ca_and_name(
    host: str, authority: Authority, csmask_contract: ModelContract
) -> None:
    credentials = authority.pair("127.0.0.1", "localhost").server_credentials()
    async with serving(Replica(csmask_contract), credentials=credentials) as (_, port):
        settings = Settings(triton=f"grpcs://{host}:{port}", triton_ca=authority.file)
        async with await connect(settings, "test_l2a") as client:
            assert (await client.infer(tile_for(client))).labels.min() == 4


async def test_a_server_of_another_ca_is_refused(
    authority: Authority, stranger: Authority, csmask_contract: ModelContract
) -> None:
    async with serving(Replica(csmask_contract), credentials=stranger.pair("127.0.0.1").server_credentials()) as (
        _,
        port,
    ):
        for ca in (authority.file, None):
            said = await refused(Settings(triton=f"grpcs://127.0.0.1:{port}", triton_ca=ca))
            assert f"the certificate of the server at grpcs://127.0.0.1:{port} is not accepted: it is of a CA" in said
            assert "--triton-ca" in said


async def test_a_server_of_another_name_is_refused(authority: Authority, csmask_contract: ModelContract) -> None:
    credentials = authority.pair("elsewhere.example").server_credentials()
    async with serving(Replica(csmask_contract), credentials=credentials) as (_, port):
        said = await refused(Settings(triton=f"grpcs://127.0.0.1:{port}", triton_ca=authority.file))
    assert "is not accepted: it is for another name than this" in said


async def test_an_expired_certificate_is_refused(authority: Authority, csmask_contract: ModelContract) -> None:
    credentials = authority.pair("127.0.0.1", is_expired=True).server_credentials()
    async with serving(Replica(csmask_contract), credentials=credentials) as (_, port):
        said = await refused(Settings(triton=f"grpcs://127.0.0.1:{port}", triton_ca=authority.file))
    assert "is not accepted: it has expired; have it renewed" in said


async def test_a_server_without_tls_is_said_to_be_one(authority: Authority, csmask_contract: ModelContract) -> None:
    async with serving(Replica(csmask_contract)) as (_, port):
        said = await refused(Settings(triton=f"grpcs://127.0.0.1:{port}", triton_ca=authority.file))
    assert f"the server at grpcs://127.0.0.1:{port} does not speak TLS: give grpc://HOST:PORT" in said


async def test_a_server_with_tls_is_said_to_be_one(authority: Authority, csmask_contract: ModelContract) -> None:
    credentials = authority.pair("127.0.0.1").server_credentials()
    async with serving(Replica(csmask_contract), credentials=credentials) as (_, port):
        said = await refused(Settings(triton=f"grpc://127.0.0.1:{port}"))
    assert said == f"the server at grpc://127.0.0.1:{port} speaks TLS: give grpcs://127.0.0.1:{port}"


async def test_nobody_there_is_no_mistake_with_tls(authority: Authority, csmask_contract: ModelContract) -> None:
    async with serving(Replica(csmask_contract)) as (server, port):
        await server.stop(None)
        for scheme in ("grpc", "grpcs"):
            with pytest.raises(ServerUnavailableError, match="no server answers"):
                await TritonClient.connect(f"{scheme}://127.0.0.1:{port}", "test_l2a")


async def test_a_port_that_hangs_up_is_no_mistake_with_tls() -> None:
    """As a load balancer does before a server that is down."""
    hang_up = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with hang_up:
        port = hang_up.sockets[0].getsockname()[1]
        for scheme in ("grpc", "grpcs"):
            with pytest.raises(ServerUnavailableError, match="no server answers"):
                await TritonClient.connect(f"{scheme}://127.0.0.1:{port}", "test_l2a")


async def test_a_certificate_that_goes_bad_ends_a_tile_at_once(
    authority: Authority, csmask_contract: ModelContract
) -> None:
    """The server comes back with a certificate that has expired: no patience helps."""
    async with AsyncExitStack() as stack:
        good = authority.pair("127.0.0.1").server_credentials()
        server, port = await stack.enter_async_context(serving(Replica(csmask_contract), credentials=good))
        settings = Settings(triton=f"grpcs://127.0.0.1:{port}", triton_ca=authority.file)
        client = await stack.enter_async_context(await connect(settings, "test_l2a"))
        await server.stop(None)
        bad = authority.pair("127.0.0.1", is_expired=True).server_credentials()
        await stack.enter_async_context(serving(Replica(csmask_contract), f"127.0.0.1:{port}", credentials=bad))
        policy = RetryPolicy(attempts=100, server_wait_s=600.0, backoff_s=0.05)
        async with asyncio.timeout(30):
            with pytest.raises(ServerError, match="it has expired"):
                await infer_with_retry(client, tile_for(client), window=InFlightWindow(1), policy=policy)


# Clients' certificates


async def test_a_client_shows_its_certificate_where_one_is_wanted(
    authority: Authority, stranger: Authority, csmask_contract: ModelContract
) -> None:
    replica = Replica(csmask_contract)
    credentials = authority.pair("127.0.0.1").server_credentials(authority.file)
    async with serving(replica, credentials=credentials) as (_, port):
        base = Settings(triton=f"grpcs://127.0.0.1:{port}", triton_ca=authority.file)
        wanted = f"the server at grpcs://127.0.0.1:{port} wants a certificate of its clients: give --triton-certificate"
        assert wanted in await refused(base)

        for pair in (stranger.pair("me@strange.example"), authority.pair("me@late.example", is_expired=True)):
            said = await refused(with_pair(base, pair))
            assert f"refuses this client's certificate {pair.certificate}: is it of a CA that the server trusts" in said

        mine = with_pair(base, authority.pair("me@ours.example", common_name="worker-1"))
        async with await connect(mine, "test_l2a") as client:
            assert (await client.infer(tile_for(client))).labels.min() == 4
        assert replica.peers == {b"worker-1"}


def with_pair(settings: Settings, pair: Pair) -> Settings:
    return settings.model_copy(update={"triton_certificate": pair.certificate, "triton_key": pair.key})


async def test_certificates_that_are_replaced_are_shown_from_then_on(
    authority: Authority, csmask_contract: ModelContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kappamask_stream.inference.contract_watch._CONFIRM_S", -1.0)
    replica = Replica(csmask_contract)
    credentials = authority.pair("127.0.0.1").server_credentials(authority.file)
    async with serving(replica, credentials=credentials) as (_, port):
        pair = authority.pair("me@ours.example", common_name="old")
        settings = with_pair(Settings(triton=f"grpcs://127.0.0.1:{port}", triton_ca=authority.file), pair)
        async with ModelPool(ModelChoice(model="test_l2a"), settings) as pool:
            first = await pool.get("L2A")
            assert await pool.get("L2A") is first

            key = pair.key.read_bytes()
            new = authority.pair("me@ours.example", common_name="new")  # the same files
            complete = new.key.read_bytes()
            new.key.write_bytes(key)  # half of it is written
            assert await pool.get("L2A") is first
            new.key.write_bytes(complete)

            second = await pool.get("L2A")
            assert second is not first
            for model in (first, second):
                assert (await model.client.infer(tile_for(model.client))).labels.min() == 4
            assert replica.peers == {b"old", b"new"}
            assert await pool.get("L2A") is second


# Files


def test_files_that_cannot_be_used_are_named_with_their_setting(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.pair("me@ours.example"), authority.pair("you@ours.example")
    (tmp_path / "nonsense").write_text("nonsense")
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    good = {"triton_ca": authority.file, "triton_certificate": pair.certificate, "triton_key": pair.key}
    for setting in good:
        for path, says in (
            (tmp_path / "missing", "cannot be read: No such file"),
            (tmp_path, "cannot be read: Is a directory"),
            (tmp_path / "nonsense", "holds no "),
        ):
            with pytest.raises(UsageError, match=rf"^setting {setting}: {path} {says}"):
                pool(**{**good, setting: path})
    with pytest.raises(UsageError, match=rf"^setting triton_ca: {damaged} holds no CA that can be read"):
        pool(**{**good, "triton_ca": damaged})
    for certificate, key in ((pair.certificate, other.key), (damaged, pair.key)):
        with pytest.raises(UsageError, match=rf"^setting triton_key: {key} is not the key of .*{certificate}"):
            pool(**{**good, "triton_certificate": certificate, "triton_key": key})
    pool(**good)


def pool(**settings: Any) -> ModelPool:
    """What every command begins with: it refuses before any product is opened, and without a server."""
    return ModelPool(ModelChoice(model="test_l2a"), Settings(**{"triton": "grpcs://host.example:8001", **settings}))


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(authority: Authority) -> None:
    from cryptography.hazmat.primitives import serialization

    pair = authority.pair("me@ours.example")
    key = serialization.load_pem_private_key(pair.key.read_bytes(), password=None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(UsageError, match="or needs a password, which it must not"):
        pool(triton_certificate=pair.certificate, triton_key=pair.key)


def test_half_a_pair_is_refused(authority: Authority) -> None:
    """gRPC would end the process on the first."""
    pair = authority.pair("me@ours.example")
    with pytest.raises(UsageError, match=r"^setting triton_key is .* and triton_certificate is not given"):
        pool(triton_key=pair.key)
    with pytest.raises(UsageError, match=r"^setting triton_certificate is .* and triton_key is not given"):
        pool(triton_certificate=pair.certificate)


@pytest.mark.parametrize("endpoint", ["grpc://host.example:8001", "dns:///host.example:8001"])
def test_files_for_tls_without_tls_are_refused(endpoint: str, authority: Authority) -> None:
    with pytest.raises(UsageError, match=rf"^setting triton_ca is for TLS, and {endpoint} is without: give grpcs://"):
        pool(triton=endpoint, triton_ca=authority.file)


def test_the_context_for_handshakes_of_our_own_is_for_looking_only() -> None:
    assert Security().context().verify_mode == ssl.CERT_NONE


# Tokens


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first-secret\n")
    return path


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every request look at the token's file."""
    monkeypatch.setattr("kappamask_stream.inference.token._LOOK_S", -1.0)


async def test_a_token_goes_with_each_request_and_is_read_again(
    token: Path, looking: None, authority: Authority, csmask_contract: ModelContract
) -> None:
    replica = Replica(csmask_contract, tokens={"first-secret"})
    credentials = authority.pair("127.0.0.1").server_credentials()
    async with serving(replica, credentials=credentials) as (_, port):
        settings = Settings(triton=f"grpcs://127.0.0.1:{port}", triton_ca=authority.file, triton_token_file=token)
        async with await connect(settings, "test_l2a") as client:
            assert (await client.infer(tile_for(client))).labels.min() == 4
            assert await client.is_ready()
            assert (await client.batch_sizes()).reason is None

            replica.tokens = {"second-secret"}
            written = token.with_name("written")  # as Kubernetes does: another file takes the name
            written.write_text("second-secret")
            written.replace(token)
            assert (await client.infer(tile_for(client))).labels.min() == 4

            token.unlink()  # and while it is not there, the last one counts
            assert (await client.infer(tile_for(client))).labels.min() == 4
            token.write_text("two words")
            assert (await client.infer(tile_for(client))).labels.min() == 4


async def test_a_token_that_is_refused_is_said_without_it(token: Path, csmask_contract: ModelContract) -> None:
    replica = Replica(csmask_contract, tokens={"another"})
    replica.echo = True
    async with serving(replica) as (_, port):
        settings = Settings(triton=f"grpc://127.0.0.1:{port}", triton_token_file=token)
        said = await refused(settings)
        assert f"the server at grpc://127.0.0.1:{port} does not know who asks: no token of ours: Bearer …" in said
        assert "(triton_token_file)" in said

        replica.tokens = {"first-secret"}
        async with await connect(settings, "test_l2a") as client:
            replica.tokens = {"another"}
            with pytest.raises(ServerError, match="does not know who asks") as caught:
                await client.infer(tile_for(client))
            assert not caught.value.retryable
            reason = (await client.batch_sizes()).reason
            told = [repr(client), repr(client.connection), repr(settings), str(reason)]
            told += traceback.format_exception(caught.value)
            assert "first-secret" not in "".join(told)
            assert repr(BearerToken(token)) == f"<BearerToken of {token}>"


def test_tokens_that_were_sent_before_are_hidden_too(token: Path, looking: None) -> None:
    """An answer to a request with the former token may come after the file was replaced."""
    plugin, request = BearerToken(token), Request({})  # type: ignore[no-untyped-call]

    def send(secret: str) -> None:
        written = token.with_name("written")
        written.write_text(secret)
        written.replace(token)
        plugin(request)

    for number in range(6):
        send(f"secret-{number}")
        plugin(request)  # and what did not change is no former one
    assert request.headers["authorization"] == "Bearer secret-5"
    assert plugin.hide("no: Bearer secret-5, secret-4, secret-1, secret") == "no: Bearer …, …, …, secret"
    send("secret-5-longer")
    assert plugin.hide("secret-5-longer and secret-5") == "… and …"


@pytest.mark.integration
async def test_a_check_sends_the_token_too(token: Path, csmask_contract: ModelContract, server_env: Path) -> None:
    replica = Replica(csmask_contract, tokens={"first-secret"})
    async with serving(replica) as (_, port):
        environment = {"KAPPAMASK_SERVER_ENV": str(server_env), "KAPPAMASK_TRITON_TOKEN_FILE": str(token)}
        checked = await asyncio.to_thread(
            subprocess.run,
            [str(CLI), "models", "check", "test_l2a", "--triton", f"grpc://127.0.0.1:{port}"],
            env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.splitlines()[-1] == "passed"
    assert "first-secret" not in checked.stdout + checked.stderr
    assert replica.tiles == 4 + sum(range(2, 9))


async def test_somebody_whom_a_server_does_not_let_in_is_told_so(csmask_contract: ModelContract) -> None:
    class Closed(Replica):
        async def ModelConfig(self, request: Any, context: Any) -> None:  # noqa: N802
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not for you")

    async with serving(Closed(csmask_contract)) as (_, port):
        said = await refused(Settings(triton=f"grpc://127.0.0.1:{port}"))
    assert said == f"the server at grpc://127.0.0.1:{port} does not let us in: not for you; ask its operator for access"


async def test_a_server_that_is_no_triton_is_told_so() -> None:
    async with AsyncExitStack() as stack:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        said = await refused(Settings(triton=f"grpc://127.0.0.1:{port}"))
    assert f"what listens at grpc://127.0.0.1:{port} is no Triton" in said


@pytest.mark.parametrize("endpoint", ["grpc://host.example:8001", "dns:///host:8001", "grpc://127.0.0.1:1,10.0.0.1:1"])
def test_a_token_is_not_sent_where_others_could_read_it(endpoint: str, token: Path) -> None:
    with pytest.raises(UsageError, match=rf"^setting triton_token_file is for TLS: on the way to {endpoint} everybody"):
        pool(triton=endpoint, triton_token_file=token)


@pytest.mark.parametrize("endpoint", ["grpcs://host.example:8001", "grpc://localhost:1", "grpc://[::1]:1"])
def test_a_token_may_be_sent_over_tls_and_on_this_machine(endpoint: str, token: Path) -> None:
    pool(triton=endpoint, triton_token_file=token)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"one\ntwo", "something else"),
        (b"x: y", "something else"),
        (b"caf\xc3\xa9", "something else"),
        (b"\x00secret", "something else"),
        (b"x" * 70_000, "is larger than 65536 bytes"),
    ],
)
def test_a_file_that_holds_no_token_is_refused_without_its_content(content: bytes, says: str, token: Path) -> None:
    token.write_bytes(content)
    with pytest.raises(UsageError, match=rf"^setting triton_token_file: {token} .*{says}") as caught:
        pool(triton_token_file=token)
    assert "secret" not in str(caught.value)


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^setting triton_token_file: .*missing cannot be read: No such file"):
        pool(triton_token_file=tmp_path / "missing")
