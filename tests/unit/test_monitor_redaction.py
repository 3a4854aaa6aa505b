"""Credentials do not survive; what people need to read does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.monitor.redaction import HIDDEN, Redaction

#: As they look in the wild; none of them opens anything.
KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SESSION = "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLWVhc3QtMSJHMEUCIQDx" + "Zq8pL7vT2mN4" * 8
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
SIGNATURE = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        (f"GET https://b.s3.amazonaws.com/k.jp2?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260101&X-Amz-Signature={SIGNATURE} 403", [SIGNATURE, "AKIAIOSFODNN7EXAMPLE"]),
        (f"X-Amz-Security-Token={SESSION}&X-Amz-Expires=60", [SESSION]),
        ("ClientError('https://me:p@ss'word@host:8443/x failed')", ["p@ss", "word"]),
        ("grpcs://user:hunter2hunter2@triton:8001 does not answer", ["hunter2hunter2", "user"]),
        ("https://account.blob.core.windows.net/c/b.tif?sv=2021&sig=Zm9vYmFyYmF6%3D", ["Zm9vYmFyYmF6"]),
        (f"Authorization: Bearer {JWT}", [JWT, JWT.split(".")[1]]),
        (f"{{'authorization': 'Bearer {JWT}', 'host': 'x'}}", [JWT]),
        (f"Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/2026/eu/s3, SignedHeaders=host, Signature={SIGNATURE}", [SIGNATURE, "AKIAIOSFODNN7EXAMPLE"]),
        (f"the token {JWT} is not accepted", [JWT]),
        ("sent bearer 0123456789abcdef0123456789abcdef", ["0123456789abcdef"]),
        ('{"access_token": "s3cr3t-value", "refresh_token":"another one", "expires": 3}', ["s3cr3t-value", "another one"]),
        ("aws_secret_access_key = abcdEFGH1234, aws_session_token=zzzzYYYY", ["abcdEFGH1234", "zzzzYYYY"]),
        ("login failed: password='with blank in it' user=x", ["with blank in it"]),
        ("Set-Cookie: session=0a1b2c3d; Path=/", ["0a1b2c3d"]),
        (f"InvalidSignature: {KEY} was used", [KEY]),
        (f"line 1\nline 2 https://u:{KEY}@h/p?q={SESSION}\nline 3", [KEY, SESSION]),
        ("http://[not-an-address?sig=abcdefgh", ["abcdefgh"]),
    ],
)  # fmt: skip
def test_secrets_are_hidden(text: str, secrets: list[str]) -> None:
    shown = Redaction(known=(KEY,)).text(text)
    assert not [secret for secret in secrets if secret in shown], shown


@pytest.mark.parametrize(
    "text",
    [
        "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454: MTD_MSIL2A.xml is missing",
        "s3://bucket/some prefix/mask.tif: the store answers 503 SlowDown; attempt 2 failed, the next one comes in 0.4 s",
        "the token is missing: log in again",
        "credentials: none were found, set AWS_PROFILE",
        "tile at row 3, column 7: the queue of grpc://triton:8001 is full; trying again",
        "see https://example.com/a/b.html. Then (https://example.com/c), too",
        "30 signatures of 5 codestreams; key=B02_10m, size=3",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redaction().text(text) == text


def test_the_rest_of_a_link_stays() -> None:
    shown = Redaction().text("cannot read https://me:pw@host/tiles/B02.jp2?sig=x, try later")
    assert shown == "cannot read https://host/tiles/B02.jp2, try later"


_PARTS = st.sampled_from(
    ["http://", "s3://", "@", "/", "?", "sig=", "x", " ", "[", "]", ":", "80", "%zz", "#", "'", '"', "é", "\n"]
)


@given(st.lists(_PARTS, max_size=14).map("".join))
def test_any_text_passes(text: str) -> None:
    """Whatever looks like a link or a pair, nothing raises, and no user of a link stays."""
    shown = Redaction().text(text + " https://somebody:hunter2@host/x")
    assert "somebody" not in shown
    assert "hunter2" not in shown


def test_texts_of_any_length_are_cut() -> None:
    shown = Redaction().text("x" * 1_000_000)
    assert len(shown) < 10_000
    assert shown.endswith("... (1000000 characters)")


@pytest.mark.parametrize("shift", range(0, 60, 3))
def test_nothing_is_shown_of_a_link_that_was_cut(shift: int) -> None:
    """Where the text is cut, half a link would show its password; much that is hidden before makes its end be seen."""
    text = (
        "https://h/?"
        + "x" * 10_000
        + " "
        + "y" * (6_320 + shift)
        + " https://somebody:hunter2hunter2@host/x "
        + "z" * 99
    )
    assert not [part for part in ("somebody", "hunter") if part in Redaction().text(text)]


def test_the_environments_secrets_are_known() -> None:
    environ = {"AWS_SECRET_ACCESS_KEY": KEY, "AWS_SESSION_TOKEN": "short", "HOME": "/home/somebody"}
    redaction = Redaction.of_environment(environ)
    assert redaction.known == (KEY,)
    assert redaction.text(f"it was {KEY}, at /home/somebody") == f"it was {HIDDEN}, at /home/somebody"
    assert KEY not in repr(redaction)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("authorization", True), ("X-Amz-Signature", True), ("password", True), ("aws_secret_access_key", True),
     ("token", True), ("product", False), ("tokens_left", False), ("signature_version", False), ("key", False)],
)  # fmt: skip
def test_names_tell_which_fields_are_secret(name: str, *, is_one: bool) -> None:
    assert Redaction.is_secret(name) is is_one
