"""What refusals of SQS and SNS, and faults of the way to them, mean: another attempt, new credentials, or the end."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from botocore import exceptions as botocore  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from kappamask_stream.errors import MessageRefusedError, QueueAccessError, QueueError, UsageError
from kappamask_stream.s3.failures import (
    BROKEN,
    CERTIFICATE,
    NO_CREDENTIALS,
    Refusal,
    broken,
    is_of_other_time,
    quoted,
    refusal_of_call,
    worth_another,
)
from kappamask_stream.s3.failures import FOREIGN as FOREIGN_OF_STORES
from kappamask_stream.s3.retry import TryLaterError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What botocore's parsers raise where an answer is none of the service's, but a proxy's page, say.
_UNREADABLE = (ResponseParserError, LookupError)
#: What botocore and aiohttp raise where a service, the way to it, credentials or parameters are at fault.
FOREIGN = (*FOREIGN_OF_STORES, *_UNREADABLE)
#: Of SQS: with the query protocol's words, which are still sent, and the new ones.
_NO_QUEUE = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
_NO_TOPIC = {"NotFound", "NotFoundException"}
_NOT_OURS = {"ReceiptHandleIsInvalid", "AWS.SimpleQueueService.MessageNotInflight", "MessageNotInflight"}
_DENIED = {
    "AccessDenied", "AccessDeniedException", "AuthorizationError", "InvalidClientTokenId", "InvalidSecurity",
    "MissingAuthenticationToken", "OptInRequired", "UnrecognizedClientException", "KmsAccessDenied", "KMSAccessDenied",
}  # fmt: skip
#: Their messages quote what was signed: headers, with tokens.
_QUOTES_REQUEST = {"SignatureDoesNotMatch", "IncompleteSignature", "InvalidSignatureException", "AuthFailure"}
_TOO_LARGE = ("must be shorter than", "Message too long", "BatchRequestTooLong")
_UNFIT = {"InvalidMessageContents", "AWS.SimpleQueueService.InvalidMessageContents"}


def meant(error: Exception, what: str) -> Exception:
    """Return what one of the `FOREIGN` exceptions means.

    Parameters
    ----------
    what : names the queue or topic, for messages.
    """
    if isinstance(error, botocore.ClientError):
        return _of_refusal(refusal_of_call(error), what)
    if isinstance(error, BROKEN) and not isinstance(error, CERTIFICATE):
        return TryLaterError(broken(error, "the service"))
    if isinstance(error, _UNREADABLE):
        return TryLaterError("the answer is none of the service's")
    if isinstance(error, botocore.NoRegionError):
        return UsageError(f"{what}: no region is known: give --queue-region, or set AWS_REGION")
    remedy = ""
    if isinstance(error, NO_CREDENTIALS):
        remedy = ": log in, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile with --queue-profile"
    elif isinstance(error, CERTIFICATE):
        remedy = ": the certificate is not accepted, AWS_CA_BUNDLE names a file of other CAs"
    return QueueError(f"{what}: {quoted(error)}{remedy}")


def meant_of_entry(entry: Mapping[str, object], what: str) -> Exception:
    """Return what a failed entry of a batch means; batches are answered with status 200."""
    status = HTTPStatus.BAD_REQUEST if entry.get("SenderFault", True) else HTTPStatus.INTERNAL_SERVER_ERROR
    said = {"Error": entry, "ResponseMetadata": {"HTTPStatusCode": int(status)}}
    return _of_refusal(refusal_of_call(botocore.ClientError(said, "batch")), what)


def _of_refusal(refusal: Refusal, what: str) -> Exception:
    if refusal.code in _QUOTES_REQUEST and not is_of_other_time(refusal):
        refusal = replace(refusal, message="")
    return worth_another(refusal, signed=True, who="the service") or _final(refusal, what)


def _final(refusal: Refusal, what: str) -> QueueError:
    code, message, said = refusal.code, refusal.message, refusal.said
    kind = QueueError
    if code in _NO_QUEUE:
        words = "there is no such queue, or not in this region and account: check its URL, and --queue-region"
    elif code in _NO_TOPIC:
        words = "there is no such topic: check its ARN"
    elif code in _NOT_OURS or ("receipt handle" in message and "expired" in message):
        words = f"it is not in this program's hands any more ({code}): it was hidden for too short, or deleted"
    elif "Total VisibilityTimeout" in message:
        words = f"12 hours from its delivery are the longest that a message is hidden ({code})"
    elif any(part in message or part == code for part in _TOO_LARGE):
        kind, words = MessageRefusedError, f"the message is too large ({said}): see MaximumMessageSize of the queue"
    elif code in _UNFIT:
        kind, words = MessageRefusedError, f"the message holds what no queue takes ({said})"
    elif refusal.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} or code in _DENIED | _QUOTES_REQUEST:
        kind = QueueAccessError
        words = f"access is refused: {said}: check the credentials (--queue-profile), their policy and the queue's"
    else:
        words = f"the service answers {said}"
    return kind(f"{what}: {words}")
