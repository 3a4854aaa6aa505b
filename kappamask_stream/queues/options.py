"""What SQS and SNS are reached with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kappamask_stream.errors import UsageError
from kappamask_stream.s3.retry import Patience

if TYPE_CHECKING:
    from kappamask_stream.settings import Settings

_ENDPOINT = re.compile(r"https?://[^/\s@?#]+/?")
_LONGEST = 200


@dataclass(frozen=True, kw_only=True)
class QueueOptions:
    """How queues and topics are reached.

    Attributes
    ----------
    endpoint_url : ``https://HOST[:PORT]`` of SQS and SNS; None: AWS, what ``AWS_ENDPOINT_URL`` and the profile say, or
        the queue's own URL where that is not one of Amazon's.
    region : None: as the queue's URL or the topic's ARN, variables and the profile say, in this order.
    profile : section of the AWS configuration; None: ``AWS_PROFILE``, and then the usual chain of credentials.
    max_connections : requests at once to a service; each receive that waits holds one, each message in work needs one
        now and then. botocore's own default is 10.
    patience : how long a service that fails is tried again; ``read_s`` is what an answer may take, beside the seconds
        that a receive waits for messages.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    max_connections: int = 32
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        if self.endpoint_url is not None and _ENDPOINT.fullmatch(self.endpoint_url) is None:
            shown = self.endpoint_url.rpartition("@")[2].partition("?")[0][:_LONGEST]
            raise UsageError(f"the endpoint {shown!r} of --queue-endpoint is not of the form https://HOST[:PORT]")


def queue_options(settings: Settings) -> QueueOptions:
    """Return the options that settings ask for.

    Raises
    ------
    UsageError
        If the endpoint is none.
    """
    return QueueOptions(
        endpoint_url=settings.queue_endpoint, region=settings.queue_region, profile=settings.queue_profile
    )


def queue_url(settings: Settings) -> str:
    """Return the URL of the queue that settings name.

    Raises
    ------
    UsageError
        If they name none.
    """
    if settings.queue is None:
        raise UsageError("no queue is named: give --queue URL, or set KAPPAMASK_QUEUE")
    return settings.queue
