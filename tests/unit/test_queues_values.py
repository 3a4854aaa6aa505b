"""Names of queues and topics, what can be sent, batches, what refusals mean."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from botocore import exceptions as botocore
from botocore.parsers import ResponseParserError
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.errors import MessageRefusedError, QueueAccessError, QueueError, UsageError
from kappamask_stream.queues import Draft, Message, QueueClients, QueueOptions, SnsTopic, SqsQueue, queue_url
from kappamask_stream.queues.addresses import Place, is_amazon, is_same_queue, parse_arn, place_of_queue, place_of_topic
from kappamask_stream.queues.drafts import attributes_of, batches, check, cleaned, size_of
from kappamask_stream.queues.failures import meant, meant_of_entry
from kappamask_stream.s3.retry import ExpiredError, TryLaterError
from kappamask_stream.settings import load_settings

QUEUE = "https://sqs.eu-central-1.amazonaws.com/123456789012/products"

# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "region", "endpoint"),
    [
        (QUEUE, "eu-central-1", None),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1", None),
        ("https://us-gov-west-1.queue.amazonaws.com/1/q", "us-gov-west-1", None),
        ("https://queue.amazonaws.com/1/q", "us-east-1", None),
        ("https://sqs-fips.us-east-2.amazonaws.com/1/q", "us-east-2", "https://sqs-fips.us-east-2.amazonaws.com"),
        ("https://sqs.eu-west-1.api.aws/1/q", "eu-west-1", "https://sqs.eu-west-1.api.aws"),
        (
            "https://vpce-0a-1b.sqs.eu-west-1.vpce.amazonaws.com/1/q",
            "eu-west-1",
            "https://vpce-0a-1b.sqs.eu-west-1.vpce.amazonaws.com",
        ),
        (
            "http://sqs.eu-west-1.localhost.localstack.cloud:4566/000000000000/q",
            "eu-west-1",
            "http://sqs.eu-west-1.localhost.localstack.cloud:4566",
        ),
        ("http://127.0.0.1:5000/123456789012/q-_1", None, "http://127.0.0.1:5000"),
        ("http://moto/queue/q", None, "http://moto"),
    ],
)
def test_a_queues_url_tells_region_and_endpoint(url: str, region: str | None, endpoint: str | None) -> None:
    assert place_of_queue(url) == Place(service="sqs", region=region, endpoint=endpoint)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("products", "is no URL of a queue: https://sqs.REGION"),
        ("https://sqs.eu-central-1.amazonaws.com/products", "is no URL of a queue"),
        ("ftp://host/1/q", "is no URL of a queue"),
        (f"{QUEUE}?X-Amz-Signature=abc", "is no URL of a queue"),
        (f"{QUEUE}\n", "is no URL of a queue"),
        ("https://me:word@host/1/q", "has credentials before its host"),
        (f"{QUEUE}.fifo", "is FIFO"),
        ("arn:aws:sqs:eu-central-1:123456789012:products", f"is an ARN, the queue's URL is needed: {QUEUE}"),
        ("arn:aws:s3:::bucket", "is no ARN of a queue or topic"),
    ],
)
def test_what_is_no_url_of_a_queue_is_refused_in_words(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        SqsQueue(url, QueueClients())
    assert "word" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_a_topics_arn_tells_its_region() -> None:
    arn = "arn:aws:sns:eu-west-1:214830741341:SentinelS2L2A"
    assert place_of_topic(arn) == Place(service="sns", region="eu-west-1")
    assert parse_arn("arn:aws-cn:sqs:cn-north-1:1:q").name == "q"
    for other, says in (
        ("arn:aws:sqs:eu-west-1:1:q", "is a queue's ARN: give the queue's URL"),
        (f"{arn}.fifo", "is FIFO"),
        (f"{arn}:subscription", "is no ARN"),
    ):
        with pytest.raises(UsageError, match=says):
            SnsTopic(other, QueueClients())


@pytest.mark.parametrize(
    ("endpoint", "amazon"),
    [
        ("https://sqs.eu-central-1.amazonaws.com", True),
        ("https://sqs.cn-north-1.amazonaws.com.cn", True),
        ("https://sqs.eu-west-1.api.aws/", True),
        ("http://127.0.0.1:5000", False),
        ("https://amazonaws.com.example.org", False),
        ("https://example.org/x.amazonaws.com", False),
    ],
)
def test_which_endpoints_are_amazons(endpoint: str, *, amazon: bool) -> None:
    assert is_amazon(endpoint) is amazon


def test_an_endpoint_that_is_none_is_refused_without_its_password() -> None:
    for wrong in ("sqs.example.org", "https://me:word@sqs.example.org", "https://sqs.example.org?token=word"):
        with pytest.raises(UsageError, match=r"'[a-z:/]*sqs\.example\.org' of --queue-endpoint") as caught:
            QueueOptions(endpoint_url=wrong)
        assert "word" not in str(caught.value)


def test_a_queue_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAPPAMASK_QUEUE", raising=False)
    monkeypatch.setenv("KAPPAMASK_CONFIG", "")
    with pytest.raises(UsageError, match="no queue is named: give --queue URL, or set KAPPAMASK_QUEUE"):
        queue_url(load_settings())
    assert queue_url(load_settings(queue=QUEUE)) == QUEUE


def test_what_is_shown_of_them_has_no_secrets() -> None:
    clients = QueueClients(QueueOptions(profile="mine"))
    assert repr(clients) == "<QueueClients AWS, mine>"
    assert repr(SqsQueue(QUEUE, clients)) == f"<SqsQueue {QUEUE}>"
    message = Message(id="i", receipt="secret handle", body="https://x?sig=secret")
    assert "secret" not in repr(message)
    assert "secret" not in repr(Draft(body="https://x?sig=secret"))


# --- what can be sent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draft", "says"),
    [
        (Draft(body=""), "has no body"),
        (Draft(body="a\x00b"), r"has character U\+0000 at place 1"),
        (Draft(body="ab\ud800"), r"has character U\+D800 at place 2"),
        (Draft(body="x", attributes={"a": "\x1b[2J"}), r"has character U\+001B at place 0"),
        (Draft(body="x", attributes={f"a{n}": "x" for n in range(11)}), "has 11 attributes, 10 are the most"),
        (Draft(body="x", attributes={"a b": "x"}), "'a b' is no name of an attribute"),
        (Draft(body="x", attributes={"AWS.x": "x"}), "'AWS.x' is no name"),
        (Draft(body="x", attributes={"a..b": "x"}), "'a..b' is no name"),
        (Draft(body="x", attributes={".a": "x"}), "'.a' is no name"),
        (Draft(body="x", attributes={"a.": "x"}), "'a.' is no name"),
        (Draft(body="x", attributes={"a": ""}), "attribute a is '', which cannot be sent: leave it out"),
        (Draft(body="x", attributes={"a": float("nan")}), "attribute a is nan"),
        (Draft(body="x", attributes={"a": float("inf")}), "attribute a is inf"),
        (Draft(body="x", delay_s=901), "is delayed by 901 s, 0 to 900"),
        (Draft(body="ü" * 600_000), "has 1200000 bytes with its attributes, 1048576 are the most"),
    ],
)
def test_what_the_services_refuse_is_refused_in_words_before(draft: Draft, says: str) -> None:
    with pytest.raises(QueueError, match=f"queue q: .*{says}"):
        check(draft, "queue q")


def test_what_is_sent_at_the_limits() -> None:
    names = {"a.b-c_D9": "x", "awsome": "\t\n\r \U0001f600", **{f"n{n}": n for n in range(8)}}
    check(Draft(body="\t\n\r\U0001f600", attributes=names, delay_s=900), "q")
    check(Draft(body="x" * 1024 * 1024), "q")
    # By SQS's own rule: names, types and values count, too.
    draft = Draft(body="ü", attributes={"name": "value", "n": 12})
    assert size_of(draft) == 2 + (4 + 6 + 5) + (1 + 6 + 2)


def test_numbers_are_numbers_and_texts_of_digits_texts() -> None:
    numbers = {"cloud_cover": np.float64(12.5), "orbit": 23, "tiny": 1e-7}
    draft = Draft(body="x", attributes={**numbers, "tile": "29", "stac": True})
    assert attributes_of(draft) == {
        "cloud_cover": {"DataType": "Number", "StringValue": "12.5"},
        "orbit": {"DataType": "Number", "StringValue": "23"},
        "tile": {"DataType": "String", "StringValue": "29"},
        "stac": {"DataType": "String", "StringValue": "true"},
        "tiny": {"DataType": "Number", "StringValue": "1e-07"},
    }


@given(st.text())
def test_a_cleaned_text_can_be_sent(text: str) -> None:
    assert len(cleaned(text)) == len(text)
    check(Draft(body="x" + cleaned(text)), "q")


@given(st.lists(st.integers(1, 300_000), max_size=60), st.integers(0, 2**32))
def test_batches_hold_every_draft_once_in_order_and_fit(sizes: list[int], seed: int) -> None:
    order = sorted(range(0, 3 * len(sizes), 3), key=lambda _: random.Random(seed).random())
    drafts = {number: Draft(body="x" * size) for number, size in zip(order, sizes, strict=True)}
    made = list(batches(drafts))
    assert [number for batch in made for number in batch] == list(drafts)
    for batch in made:
        assert 1 <= len(batch) <= 10
        assert len(batch) == 1 or sum(size_of(drafts[number]) for number in batch) <= 256 * 1024
    for first, second in itertools.pairwise(made):  # none could have taken one more
        assert len(first) == 10 or sum(size_of(drafts[n]) for n in (*first, second[0])) > 256 * 1024


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(code: str, message: str = "said so", status: int = 400) -> botocore.ClientError:
    said: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.ClientError(said, "ReceiveMessage")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (refused("AWS.SimpleQueueService.NonExistentQueue"), "there is no such queue.*--queue-region"),
        (refused("QueueDoesNotExist"), "there is no such queue"),
        (refused("NotFound", status=404), "there is no such topic: check its ARN"),
        (refused("ReceiptHandleIsInvalid"), r"not in this program's hands any more \(ReceiptHandleIsInvalid\)"),
        (refused("AWS.SimpleQueueService.MessageNotInflight"), "not in this program's hands"),
        (
            refused("InvalidParameterValue", "Value AQEB for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."),
            "not in this program's hands",
        ),
        (
            refused("InvalidParameterValue", "Reason: Total VisibilityTimeout for the message is beyond the limit [43200 seconds]"),
            "12 hours from its delivery are the longest",
        ),
        (refused("SomethingNew"), r"the service answers 400 SomethingNew \(said so\)"),
        (botocore.NoCredentialsError(), "Unable to locate credentials: log in.*--queue-profile"),
        (botocore.ProfileNotFound(profile="mine"), r"\(mine\) could not be found: log in"),
        (botocore.SSLError(endpoint_url="https://x", error="unknown CA"), "the certificate is not accepted, AWS_CA_BUNDLE"),
        (botocore.ParamValidationError(report="wrong"), "wrong"),
    ],
)  # fmt: skip
def test_refusals_are_told_with_a_remedy(error: Exception, says: str) -> None:
    found = meant(error, "queue q")
    assert type(found) is QueueError
    with pytest.raises(QueueError, match=f"^queue q: .*{says}"):
        raise found


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (refused("AccessDenied", "User: arn:x is not authorized", 403), r"403 AccessDenied \(User: arn:x"),
        (refused("AuthorizationError", status=403), "403 AuthorizationError"),
        (refused("InvalidClientTokenId", status=403), "--queue-profile"),
    ],
)
def test_who_is_denied_access_is_told_apart(error: Exception, says: str) -> None:
    with pytest.raises(QueueAccessError, match=f"^queue q: access is refused: .*{says}"):
        raise meant(error, "queue q")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (refused("InvalidParameterValue", "Message must be shorter than 262144 bytes."), "too large .*MaximumMessageSize"),
        (refused("BatchRequestTooLong"), "is too large"),
        (refused("InvalidMessageContents"), r"holds what no queue takes \(400 InvalidMessageContents"),
    ],
)  # fmt: skip
def test_a_message_that_cannot_be_sent_is_its_own_fault(error: Exception, says: str) -> None:
    with pytest.raises(MessageRefusedError, match=f"^queue q: the message .*{says}"):
        raise meant(error, "queue q")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/1/q", "https://sqs.eu-west-1.amazonaws.com/1/q", True),
        ("https://sqs.eu-west-1.amazonaws.com/1/q", "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/1/q", True),
        ("https://queue.amazonaws.com/1/q", "https://sqs.us-east-1.amazonaws.com/1/q", True),
        ("https://sqs.eu-west-1.amazonaws.com/1/q", "https://sqs.eu-west-2.amazonaws.com/1/q", False),
        ("https://sqs.eu-west-1.amazonaws.com/1/q", "https://sqs.eu-west-1.amazonaws.com/2/q", False),
        ("http://localhost:5000/1/q", "http://localhost:5000/1/q", True),
        ("http://localhost:5000/1/q", "http://localhost:4566/1/q", False),
        ("http://localhost:5000/1/q", "https://sqs.eu-west-1.amazonaws.com/1/q", False),
    ],
)
def test_one_queue_has_several_urls(one: str, other: str, same: bool) -> None:  # noqa: FBT001
    assert is_same_queue(one, other) is same
    assert is_same_queue(other, one) is same


def test_without_a_region_the_flag_is_named() -> None:
    with pytest.raises(UsageError, match="no region is known: give --queue-region, or set AWS_REGION"):
        raise meant(botocore.NoRegionError(), "queue q")


@pytest.mark.parametrize(
    ("error", "overloaded"),
    [
        (refused("RequestThrottled"), True),
        (refused("ThrottlingException"), True),
        (refused("KmsThrottled"), True),
        (refused("OverLimit", status=403), True),
        (refused("503", status=503), True),
        (refused("InternalError", status=500), False),
        (botocore.EndpointConnectionError(endpoint_url="http://x"), False),
        (botocore.ReadTimeoutError(endpoint_url="http://x"), False),
        (TimeoutError(), False),
        (ConnectionResetError(), False),
        (ResponseParserError("invalid XML"), False),
    ],
)
def test_what_passes_is_tried_again(error: Exception, *, overloaded: bool) -> None:
    found = meant(error, "queue q")
    assert isinstance(found, TryLaterError)
    assert found.overloaded is overloaded


def test_expired_credentials_are_read_anew() -> None:
    assert isinstance(meant(refused("ExpiredToken", status=403), "q"), ExpiredError)
    assert isinstance(meant(refused("AccessDenied", "The security token has expired", 403), "q"), ExpiredError)


def test_what_quotes_the_request_is_not_repeated() -> None:
    quoted = "The Canonical String should have been 'POST x-amz-security-token:IQoJtoken'"
    for code in ("SignatureDoesNotMatch", "IncompleteSignature", "InvalidSignatureException"):
        text = str(meant(refused(code, quoted, 403), "queue q"))
        assert code in text
        assert "IQoJ" not in text


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"Code": "InternalError", "SenderFault": False}, TryLaterError),
        ({"Code": "RequestThrottled", "SenderFault": True}, TryLaterError),
        ({"Code": "InvalidParameterValue", "SenderFault": True, "Message": "no"}, QueueError),
        ({"Code": "ReceiptHandleIsInvalid"}, QueueError),
    ],
)
def test_failed_entries_of_a_batch_are_told_apart(entry: dict[str, Any], kind: type[Exception]) -> None:
    assert type(meant_of_entry(entry, "queue q")) is kind
