"""Names of queues and topics: URLs of SQS, ARNs, and what they say of region and endpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kappamask_stream.errors import UsageError

_URL = re.compile(r"(?P<origin>https?://(?P<host>[^/\s@?#:]+)(?::\d+)?)(?P<path>(?:/[\w.-]+)+)", re.ASCII)
_ARN = re.compile(
    r"arn:(?P<partition>aws[\w-]*):(?P<service>sqs|sns):(?P<region>[a-z0-9-]+):(?P<account>\d+):(?P<name>[\w-]+(?:\.fifo)?)",
    re.ASCII,
)
#: Hosts of SQS whose region is all that a client needs to know; the second one is of old URLs.
_STANDARD = (
    re.compile(r"sqs\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"),
    re.compile(r"(?:(?P<region>[a-z0-9-]+)\.)?queue\.amazonaws\.com(?:\.cn)?"),
)
_FIRST_REGION = "us-east-1"  # that of old URLs without one
#: Other hosts that tell a region: VPC endpoints, FIPS, dual stack, LocalStack.
_TELLS_REGION = re.compile(r"(?:^|\.)sqs(?:-fips)?\.(?P<region>[a-z]{2}[a-z-]*-\d)\.")
_AMAZON = re.compile(r"https://[^/]+\.(?:amazonaws\.com|amazonaws\.com\.cn|api\.aws)(?::\d+)?/?")
_LONGEST = 200


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where requests for a queue or topic go.

    Attributes
    ----------
    service : ``sqs`` or ``sns``.
    region : that the name tells; None where it tells none.
    endpoint : ``scheme://host[:port]`` that the name tells; None: that of the region.
    """

    service: str
    region: str | None = None
    endpoint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Arn:
    """An ARN of SQS or SNS.

    Attributes
    ----------
    service : ``sqs`` or ``sns``.
    region, account, name : of the queue or topic.
    """

    service: str
    region: str
    account: str
    name: str


def is_arn(text: str) -> bool:
    """Tell whether a text is meant as an ARN."""
    return text.startswith("arn:")


def parse_arn(text: str) -> Arn:
    """Return the parts of an ARN.

    Raises
    ------
    UsageError
        If it is none of SQS or SNS.
    """
    found = _ARN.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{text[:_LONGEST]!r} is no ARN of a queue or topic: arn:aws:sns:REGION:ACCOUNT:NAME is expected"
        )
    return Arn(service=found["service"], region=found["region"], account=found["account"], name=found["name"])


def place_of_queue(url: str) -> Place:
    """Return where the requests for a queue go.

    Raises
    ------
    UsageError
        If the URL is none of a queue, holds credentials (which are not repeated), or is of a FIFO queue.
    """
    if is_arn(url):
        arn = parse_arn(url)
        raise UsageError(
            f"{url} is an ARN, the queue's URL is needed: https://sqs.{arn.region}.amazonaws.com/{arn.account}/"
            f"{arn.name}"
        )
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise UsageError(
            "a queue's URL has credentials before its host: leave them out; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or name a profile with --queue-profile"
        )
    found = _URL.fullmatch(url)
    if found is None or found["path"].count("/") < len(("account", "name")):
        shown = url.partition("?")[0][:_LONGEST]
        raise UsageError(f"{shown!r} is no URL of a queue: https://sqs.REGION.amazonaws.com/ACCOUNT/NAME is expected")
    refuse_fifo(url)
    for standard in _STANDARD:
        if known := standard.fullmatch(found["host"]):
            return Place(service="sqs", region=known["region"] or _FIRST_REGION)
    told = _TELLS_REGION.search(found["host"])
    return Place(service="sqs", region=told["region"] if told else None, endpoint=found["origin"])


def is_same_queue(one: str, other: str) -> bool:
    """Tell whether two URLs name the same queue: by account and name, and region or, where a URL tells none, host.

    Raises
    ------
    UsageError
        If one is none of a queue.
    """
    first, second = place_of_queue(one), place_of_queue(other)
    has_regions = first.region is not None and second.region is not None
    is_one_place = first.region == second.region if has_regions else first == second
    return is_one_place and _path(one) == _path(other)


def _path(url: str) -> str:
    return url.partition("://")[2].partition("/")[2]


def place_of_topic(arn: str) -> Place:
    """Return where the requests for a topic go.

    Raises
    ------
    UsageError
        If the ARN is none of a topic, or of a FIFO topic.
    """
    parsed = parse_arn(arn)
    if parsed.service != "sns":
        raise UsageError(f"{arn} is a queue's ARN: give the queue's URL, or the ARN of a topic")
    refuse_fifo(arn)
    return Place(service="sns", region=parsed.region)


def refuse_fifo(name: str) -> None:
    """Return where a queue or topic is a standard one.

    Raises
    ------
    UsageError
        If it is FIFO: one message in work blocks all others of its group, and order is of no use here.
    """
    if name.endswith(".fifo"):
        raise UsageError(
            f"{name} is FIFO, in which one message in work holds up the others of its group: make a standard one"
        )


def is_amazon(endpoint: str) -> bool:
    """Tell whether an endpoint's URL is one of Amazon's."""
    return _AMAZON.fullmatch(endpoint) is not None
