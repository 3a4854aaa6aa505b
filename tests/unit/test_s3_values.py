"""Options, URLs, refusals, checksums, and where products lie in stores' layouts."""

import base64
import hashlib
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from kappamask_stream.errors import (
    StoreAccessError,
    StoreChangedError,
    StoreCredentialsError,
    StoreError,
    UsageError,
)
from kappamask_stream.names import parse_product_name
from kappamask_stream.s3 import CDSE, S3Object, S3Options, is_s3_url, parse_s3_url
from kappamask_stream.s3.checksums import content_md5, md5_of_etag, wrong_checksum
from kappamask_stream.s3.failures import of_refusal, refusal_of
from kappamask_stream.s3.options import bare_etag
from kappamask_stream.s3.retry import ExpiredError, TryLaterError
from kappamask_stream.sources.aws import product_name, safe_paths, tile_prefix
from kappamask_stream.sources.cdse import candidate_prefixes

# --- options and URLs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "bucket", "key"),
    [("s3://b", "b", ""), ("s3://b/", "b", ""), ("s3://b/a b/ü.zip", "b", "a b/ü.zip"), ("s3://b//x", "b", "/x")],
)
def test_urls_are_bucket_and_key(url: str, bucket: str, key: str) -> None:
    assert is_s3_url(url)
    assert parse_s3_url(url) == (bucket, key)


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///key", "S3://b/k", "s3:/b/k", "s3://b /k", "s3://b/k\n", "https://b/k", ""]
)
def test_what_is_no_url_is_named(url: str) -> None:
    with pytest.raises(UsageError, match="is no S3 URL: s3://BUCKET/KEY"):
        parse_s3_url(url)


def test_a_preset_fills_in_what_is_left_out() -> None:
    assert S3Options().over(CDSE) == CDSE
    mine = S3Options(endpoint_url="http://127.0.0.1:1", profile="mine", max_connections=2)
    chosen = mine.over(CDSE)
    assert (chosen.endpoint_url, chosen.region, chosen.profile) == ("http://127.0.0.1:1", "default", "mine")
    assert (chosen.connections, chosen.requests_per_minute) == (2, 2000)
    assert S3Options().connections == 16
    anonymous = S3Options(anonymous=True).over(S3Options(requester_pays=True, profile="x"))
    assert (anonymous.requester_pays, anonymous.profile) == (None, None)
    declined = S3Options(requester_pays=False).over(S3Options(requester_pays=True))
    assert declined.requester_pays is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint_url": "eodata.example.org"}, r"'eodata\.example\.org' is not of the form https://HOST"),
        ({"endpoint_url": "https://me:word@example.org"}, r"'example\.org' is not"),
        ({"anonymous": True, "requester_pays": True}, r"exclude each other"),
        ({"anonymous": True, "profile": "mine"}, r"--s3-profile mine names some"),
        ({"max_connections": 0}, r"max_connections is 0"),
        ({"requests_per_minute": -1}, r"requests_per_minute is -1"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        S3Options(**options)  # type: ignore[arg-type]
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "bare"), [('"abc"', "abc"), ("abc", "abc"), ('W/"abc"', "W/abc"), ("", None), (None, None)]
)
def test_etags_without_quotes(header: str | None, bare: str | None) -> None:
    assert bare_etag(header) == bare


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(status: int, body: str = "", *, signed: bool = True, **headers: str) -> Exception:
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return of_refusal(refusal_of(status, shown, body.encode()), "s3://bucket/key", signed=signed)


def error_xml(code: str, message: str = "") -> str:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message><Key>k</Key></Error>'


@pytest.mark.parametrize(
    ("status", "code", "overloaded"),
    [(503, "SlowDown", True), (503, "", True), (429, "", True), (400, "RequestTimeout", False), (500, "", False), (504, "", False)],
)  # fmt: skip
def test_what_passes(*, status: int, code: str, overloaded: bool) -> None:
    meant = refused(status, error_xml(code) if code else "<html>gateway</html>")
    assert isinstance(meant, TryLaterError)
    assert meant.overloaded is overloaded
    assert str(status) in str(meant)


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired", "TokenRefreshRequired"])
def test_what_new_credentials_may_help(code: str) -> None:
    assert isinstance(refused(400, error_xml(code)), ExpiredError)
    assert isinstance(refused(400, error_xml(code), signed=False), StoreError)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert getattr(refused(503, Retry_After="12"), "retry_after_s", None) == 12.0
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    said = getattr(refused(503, Retry_After=soon), "retry_after_s", None)
    assert said is not None
    assert 90 < said <= 100
    for nonsense in ("soon", "-5", "", "1e3"):
        assert getattr(refused(503, Retry_After=nonsense), "retry_after_s", 0) is None
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=100), usegmt=True)
    assert getattr(refused(503, Retry_After=past), "retry_after_s", None) == 0.0


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "NoSuchKey", "there is no such object"),
        (404, "NoSuchBucket", "there is no bucket bucket"),
        (301, "PermanentRedirect", "--s3-region"),
        (400, "InvalidRequest", r"400 InvalidRequest \(why\)"),
    ],
)
def test_what_is_final_says_why_and_what_to_try(status: int, code: str, message: str) -> None:
    meant = refused(status, error_xml(code, "why"))
    assert type(meant) is StoreError
    with pytest.raises(StoreError, match=f"s3://bucket/key.*{message}"):
        raise meant


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(412, "PreconditionFailed", "was replaced since it was listed .*run again"), (416, "InvalidRange", "replaced")],
)
def test_an_object_that_was_replaced_may_be_read_anew(status: int, code: str, message: str) -> None:
    meant = refused(status, error_xml(code, "why"))
    with pytest.raises(StoreChangedError, match=f"s3://bucket/key.*{message}") as caught:
        raise meant
    assert (caught.value.retryable, caught.value.exit_code) == (True, 3)


def test_what_is_denied_says_what_to_try() -> None:
    with pytest.raises(StoreAccessError, match=r"s3://bucket/key: .*403 AccessDenied \(why\): .*--s3-requester-pays"):
        raise refused(403, error_xml("AccessDenied", "why"))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "InvalidAccessKeyId", StoreCredentialsError),
        (403, "SignatureDoesNotMatch", StoreCredentialsError),
        (400, "InvalidToken", StoreCredentialsError),
        (401, "", StoreCredentialsError),
        (403, "AccessDenied", StoreAccessError),  # of one object, maybe one that is not there
        (403, "", StoreAccessError),
    ],
)
def test_who_is_unknown_is_told_apart_from_what_is_denied(status: int, code: str, kind: type[StoreError]) -> None:
    refusal = refusal_of(status, {}, error_xml(code).encode() if code else b"")
    assert type(of_refusal(refusal, "s3://bucket/key", signed=True)) is kind


def test_a_clock_that_is_off_passes_and_is_named() -> None:
    """Not a refusal of who asks: a clock that has jumped is set again, and no product is at fault."""
    refusal = refusal_of(403, {}, error_xml("RequestTimeTooSkewed", "The difference is too large.").encode())
    meaning = of_refusal(refusal, "s3://bucket/key", signed=True)
    assert isinstance(meaning, TryLaterError)
    assert str(meaning) == (
        "the store answers 403 RequestTimeTooSkewed: its clock and this machine's differ: set this machine's"
    )


def test_cdses_bucket_elsewhere_is_a_hint() -> None:
    refusal = refusal_of(404, {}, error_xml("NoSuchBucket").encode())
    assert "--source cdse" in str(of_refusal(refusal, "s3://eodata/x", signed=True))


def test_what_a_store_says_is_quoted_in_one_line() -> None:
    said = refusal_of(400, {}, error_xml("X", "a &lt;b&gt;\n\x1b[31m" + "c" * 5000).encode()).said
    assert said.startswith("400 X (a <b>[31mccc")
    assert len(said) < 300


# --- checksums --------------------------------------------------------------------------------------------------------

DATA = b"some metadata"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("sha256", hashlib.sha256(DATA).digest()),
        ("sha1", hashlib.sha1(DATA).digest()),
        ("crc32", zlib.crc32(DATA).to_bytes(4, "big")),
    ],
)
def test_checksums_of_s3(name: str, digest: bytes) -> None:
    header = f"x-amz-checksum-{name}"
    assert wrong_checksum(DATA, {header: b64(digest)}) is None
    assert f"its {name} is" in (wrong_checksum(DATA + b"!", {header: b64(digest)}) or "")
    assert wrong_checksum(DATA + b"!", {header: b64(digest) + "-3"}) is None
    assert wrong_checksum(DATA + b"!", {header: b64(digest), "x-amz-checksum-type": "COMPOSITE"}) is None


def test_known_values_of_checksums() -> None:
    """From the specifications' own examples: RFC 1321, FIPS 180-4, and the check value of CRC-32."""
    assert content_md5(b"abc") == b64(bytes.fromhex("900150983cd24fb0d6963f7d28e17f72"))
    assert wrong_checksum(b"123456789", {"x-amz-checksum-crc32": b64(bytes.fromhex("cbf43926"))}) is None
    sha1 = "a9993e364706816aba3e25717850c26c9cd0d89d"
    assert wrong_checksum(b"abc", {"x-amz-checksum-sha1": b64(bytes.fromhex(sha1))}) is None


def test_which_etags_are_an_md5() -> None:
    md5 = "900150983cd24fb0d6963f7d28e17f72"
    encryption = "x-amz-server-side-encryption"
    assert md5_of_etag(md5, {}) == md5
    assert md5_of_etag(md5, {encryption: "AES256"}) == md5
    assert md5_of_etag(md5, {encryption: "aws:kms"}) is None
    assert md5_of_etag(md5, {encryption: "aws:kms:dsse"}) is None
    assert md5_of_etag(md5, {f"{encryption}-customer-algorithm": "AES256"}) is None
    for other in (f"{md5}-2", md5.upper(), "W/" + md5, "abc", None):
        assert md5_of_etag(other, {}) is None


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "tile"),
    [
        ("tiles/29/U/NU/2022/10/5/0", "tiles/29/U/NU/2022/10/5/0"),
        ("tiles/1/C/CV/2022/1/15/12/", "tiles/1/C/CV/2022/1/15/12"),
        ("tiles/29/U/NU/2022/10/5/0/R10m/B02.jp2", "tiles/29/U/NU/2022/10/5/0"),
        ("tiles/29/U/NU/2022/10/5", None),
        ("tiles/29/U/NU/2022/10/5/0x/B02.jp2", None),
        ("my/tiles/29/U/NU/2022/10/5/0", None),
        ("S2A_MSIL2A.SAFE/", None),
    ],
)
def test_keys_of_awss_tiles(key: str, tile: str | None) -> None:
    assert tile_prefix(key) == tile


def test_keys_of_awss_products() -> None:
    name = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"
    for key in (f"products/2022/10/5/{name}", f"products/2022/10/5/{name}/productInfo.json"):
        found = product_name(key)
        assert found is not None
        assert found.text == name
    assert product_name("products/2022/10/5/other/") is None
    assert product_name(f"x/products/2022/10/5/{name}") is None


@pytest.mark.parametrize(("level", "stem"), [("L1C", "T29UNU_20221005T115411_B02"), ("L2A", "R10m/T29UNU_20221005T115411_B02_10m")])  # fmt: skip
def test_without_names_in_the_metadata_bands_get_names_that_fit(level: str, stem: str) -> None:
    name = parse_product_name(f"S2A_MSI{level}_20221005T115411_N0400_R023_T29UNU_20221005T164454")
    at = {key: S3Object(bucket="b", key=key, size=1) for key in ("metadata.xml", "band")}
    band = "B02.jp2" if level == "L1C" else "R10m/B02.jp2"
    paths = safe_paths(name, {"metadata.xml": at["metadata.xml"], band: at["band"]}, at, ())
    granule = f"GRANULE/{level}_T29UNU_20221005T164454"
    assert set(paths) == {f"MTD_MSI{level}.xml", f"{granule}/MTD_TL.xml", f"{granule}/IMG_DATA/{stem}.jp2"}


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454", "L2A"),
        ("S2A_MSIL1C_20240912T112541_N0511_R137_T28PHQ_20240912T133420", "L1C"),
        ("S2A_MSIL2A_20230413T050651_N0510_R019_T43PGN_20240829T072229", "L2A_N0500"),
        ("S2B_MSIL1C_20230115T133829_N0510_R124_T21HWD_20240728T040848", "L1C_N0500"),
        ("S2B_MSIL2A_20201212T235129_N0500_R073_T59UNV_20230226T030207", "L2A_N0500"),
        ("S2C_MSIL2A_20251215T050231_N0511_R119_T44PKS_20251215T074508", "L2A"),
        ("S2A_MSIL2A_20221005T115411_R023_T29UNU_20221005T164454", "L2A"),
        ("S2A_MSIL2A_20221005T115411_N0500_R023_T29UNU_XYZ", "L2A"),
    ],
)
def test_where_cdse_keeps_a_product(name: str, folder: str) -> None:
    """Of real products, where their places are published."""
    first, second = candidate_prefixes(parse_product_name(name))
    day = "/".join((name[11:15], name[15:17], name[17:19]))
    assert first == f"Sentinel-2/MSI/{folder}/{day}/{name}.SAFE/"
    assert {first, second} == {f"Sentinel-2/MSI/{name[7:10]}{end}/{day}/{name}.SAFE/" for end in ("", "_N0500")}
