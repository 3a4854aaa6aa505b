"""Options of the settings of queues, for `worker`, `queue` and `submit`, in the group under which help shows them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

QUEUES = "Queue (SQS)"

Queue = Annotated[
    str | None,
    typer.Option(
        "--queue",
        metavar="URL",
        help="Queue that products come from: https://sqs.REGION.amazonaws.com/ACCOUNT/NAME. [default: as "
        "KAPPAMASK_QUEUE or the configuration file say]",
        rich_help_panel=QUEUES,
    ),
]
DeadLetterQueue = Annotated[
    str | None,
    typer.Option(
        "--dead-letter-queue",
        metavar="URL",
        help="Queue that takes messages that can never be done. [default: the one that the queue's redrive policy "
        "names]",
        rich_help_panel=QUEUES,
    ),
]
QueueEndpoint = Annotated[
    str | None,
    typer.Option(
        "--queue-endpoint",
        metavar="URL",
        help="Of SQS and SNS other than Amazon's. [default: AWS, or as AWS_ENDPOINT_URL and the profile say]",
        rich_help_panel=QUEUES,
    ),
]
QueueRegion = Annotated[
    str | None,
    typer.Option(
        "--queue-region",
        metavar="NAME",
        help="Region of the queue. [default: as its URL, AWS_REGION or the profile say]",
        rich_help_panel=QUEUES,
    ),
]
QueueProfile = Annotated[
    str | None,
    typer.Option(
        "--queue-profile",
        metavar="NAME",
        help="Section of the AWS configuration for SQS and SNS. [default: the usual chain of AWS credentials]",
        rich_help_panel=QUEUES,
    ),
]

#: A group of flags for `setting_flags.takes_setting_flags`: by name of the setting.
QUEUE_FLAGS: dict[str, Any] = {
    "queue": Queue,
    "dead_letter_queue": DeadLetterQueue,
    "queue_endpoint": QueueEndpoint,
    "queue_region": QueueRegion,
    "queue_profile": QueueProfile,
}
