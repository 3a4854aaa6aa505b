"""``kappamask-stream queue …``."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from kappamask_stream.cli.options import TELLING
from kappamask_stream.cli.queue_options import QUEUE_FLAGS
from kappamask_stream.cli.setting_flags import NO_FLAGS, SettingFlags, takes_setting_flags

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kappamask_stream.cli.queue_telling import Counts
    from kappamask_stream.queues import Message, Moved, SqsQueue
    from kappamask_stream.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    help="""The worker's queue: how full it is, what waits in it, and dead letters.

Example: kappamask-stream queue stats --queue https://sqs.eu-central-1.amazonaws.com/123456789012/products
""",
)

_TELL_EACH_S = 5.0
_WHICH = "Which messages"

DeadLetters = Annotated[
    bool,
    typer.Option("--dead-letters", help="Look at the dead-letter queue instead.", rich_help_panel=_WHICH),
]
Count = Annotated[int, typer.Option("--count", "-n", min=1, help="Messages to show, at most.", rich_help_panel=_WHICH)]
WithBody = Annotated[
    bool, typer.Option("--body", help="Also show what each message says, as it was sent.", rich_help_panel=TELLING)
]
ReasonContains = Annotated[
    str | None,
    typer.Option(
        "--reason-contains",
        metavar="TEXT",
        help="Move those only whose reason, or class of error, has this text in it; capitals or not is all one.",
        rich_help_panel=_WHICH,
    ),
]
Product = Annotated[
    str | None,
    typer.Option(
        "--product",
        metavar="TEXT",
        help="Move those only that ask for a product with this text in its name, e.g. a name, or _T29UNU_.",
        rich_help_panel=_WHICH,
    ),
]
AllQueues = Annotated[
    bool,
    typer.Option(
        "--all-queues",
        help="Move those, too, that came from other queues which share the dead-letter queue.",
        rich_help_panel=_WHICH,
    ),
]
Most = Annotated[
    int | None,
    typer.Option("--max", min=1, help="Messages to move, at most. [default: all]", rich_help_panel=_WHICH),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count what would be moved, and move nothing.", rich_help_panel=_WHICH)
]
OneJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, and nothing else.", rich_help_panel=TELLING)
]
JsonEach = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per message, and nothing else.", rich_help_panel=TELLING)
]


@app.command(short_help="Count the messages of the queue and of its dead-letter queue.")
@takes_setting_flags(QUEUE_FLAGS)
def stats(flags: SettingFlags = NO_FLAGS, as_json: OneJson = False) -> None:
    """Count the messages of the queue and of its dead-letter queue.

    Those that wait can be received now; those in work are hidden from other workers until they are done, or given up;
    those delayed come later. SQS calls these counts approximate: within a minute after the last change they are right.
    It does not tell here for how long the oldest message has waited; CloudWatch does, as
    ApproximateAgeOfOldestMessage.

    Example: kappamask-stream queue stats --queue https://sqs.eu-central-1.amazonaws.com/123456789012/products
             KAPPAMASK_QUEUE=http://127.0.0.1:5000/123456789012/products kappamask-stream queue stats --json
    """
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.cli.queue_telling import counts_as_json, counts_as_text

    counts = run_command(_stats(_settings(flags)))
    typer.echo(json.dumps(counts_as_json(counts)) if as_json else counts_as_text(counts))


@app.command(short_help="Show messages of the queue without taking them.")
@takes_setting_flags(QUEUE_FLAGS)
def peek(
    dead_letters: DeadLetters = False,
    count: Count = 10,
    flags: SettingFlags = NO_FLAGS,
    body: WithBody = False,
    as_json: JsonEach = False,
) -> None:
    """Show some messages of the queue, or of its dead-letter queue with the reasons, and leave them there.

    SQS knows no look without a delivery: for some seconds the messages are hidden from workers, and each look counts
    towards the deliveries after which the queue's redrive policy makes a message a dead letter. Looking at dead letters
    has no such consequence. SQS shows messages in no particular order.

    Example: kappamask-stream queue peek --queue https://sqs.eu-central-1.amazonaws.com/123456789012/products
             kappamask-stream queue peek --dead-letters --count 100 --json
    """
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.cli.queue_telling import message_as_json, message_as_text

    messages = run_command(_peek(_settings(flags), count, dead_letters=dead_letters))
    if as_json:
        for message in messages:
            typer.echo(json.dumps(message_as_json(message, with_body=body)))
        return
    for message in messages:
        typer.echo(message_as_text(message, with_body=body))
    if not messages:
        typer.echo("there is no message that could be received now", err=True)


@app.command(short_help="Move dead letters back to the queue.")
@takes_setting_flags(QUEUE_FLAGS)
def redrive(
    reason_contains: ReasonContains = None,
    product: Product = None,
    all_queues: AllQueues = False,
    most: Most = None,
    dry_run: DryRun = False,
    flags: SettingFlags = NO_FLAGS,
    as_json: OneJson = False,
) -> None:
    """Move messages of the dead-letter queue back to the queue, once what made them fail is mended.

    Each is sent to the queue before it is deleted, so none is lost when this is interrupted; what was not moved stays.
    The reasons that were attached to it are left out, deliveries are counted from 1 again. `queue peek
    --dead-letters` shows what there is; --dry-run counts what would be moved. Where several queues share the
    dead-letter queue, those that came from another one stay.

    Example: kappamask-stream queue redrive --queue https://sqs.eu-central-1.amazonaws.com/123456789012/products
             kappamask-stream queue redrive --reason-contains 'no space' --product _T29UNU_ --dry-run
    """
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.cli.queue_telling import moved_as_text
    from kappamask_stream.errors import QueueError

    plan = _Plan(
        reason=reason_contains, product=product, all_queues=all_queues, most=most, dry_run=dry_run, quiet=as_json
    )  # fmt: skip
    moved = run_command(_redrive(_settings(flags), plan))
    typer.echo(json.dumps({**asdict(moved), "dry_run": dry_run}) if as_json else moved_as_text(moved, dry_run=dry_run))
    if moved.refused:
        raise QueueError(f"{moved.refused} messages are still dead letters: {moved.reason}")


def _settings(flags: SettingFlags) -> Settings:
    from kappamask_stream.settings import load_settings

    return load_settings(**flags)


@asynccontextmanager
async def _queue(settings: Settings) -> AsyncIterator[SqsQueue]:
    from kappamask_stream.queues import QueueClients, SqsQueue, queue_options, queue_url

    def tell(_cause: str, text: str) -> None:
        typer.echo(text, err=True)

    async with QueueClients(queue_options(settings), on_retry=tell) as clients:
        yield SqsQueue(queue_url(settings), clients)


async def _dead_letters(queue: SqsQueue, settings: Settings) -> SqsQueue:
    from kappamask_stream.errors import UsageError
    from kappamask_stream.queues import dead_letter_queue_of

    found = await dead_letter_queue_of(queue, settings.dead_letter_queue)
    if found is None:
        raise UsageError(f"{queue.url} has no redrive policy that names a dead-letter queue: give --dead-letter-queue")
    return found


async def _stats(settings: Settings) -> Counts:
    from kappamask_stream.cli.queue_telling import Counts
    from kappamask_stream.queues import dead_letter_queue_of

    async with _queue(settings) as queue:
        counted = await queue.stats()
        dead = await dead_letter_queue_of(queue, settings.dead_letter_queue or counted.dead_letter_queue)
        if dead is None:
            return Counts(url=queue.url, stats=counted)
        return Counts(url=queue.url, stats=counted, dead_url=dead.url, dead_stats=await dead.stats())


async def _peek(settings: Settings, count: int, *, dead_letters: bool) -> list[Message]:
    from kappamask_stream.queues import peek

    async with _queue(settings) as queue:
        return await peek(await _dead_letters(queue, settings) if dead_letters else queue, count)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    reason: str | None
    product: str | None
    all_queues: bool
    most: int | None
    dry_run: bool
    quiet: bool


async def _redrive(settings: Settings, plan: _Plan) -> Moved:
    from kappamask_stream.cli.queue_telling import is_chosen, moved_as_text
    from kappamask_stream.queues import Moved, redrive

    latest, told_at = Moved(), time.monotonic()

    def on_progress(moved: Moved) -> None:
        nonlocal latest, told_at
        latest = moved
        if not plan.quiet and (now := time.monotonic()) - told_at >= _TELL_EACH_S:
            told_at = now
            typer.echo(moved_as_text(moved, dry_run=plan.dry_run), err=True)

    async with _queue(settings) as queue:
        dead = await _dead_letters(queue, settings)
        try:
            return await redrive(
                dead, queue, wanted=lambda message: is_chosen(message, plan.reason, plan.product),
                all_queues=plan.all_queues, most=plan.most, dry_run=plan.dry_run, on_progress=on_progress,
            )  # fmt: skip
        except BaseException:  # also where it is cancelled: what was moved stays moved
            typer.echo(f"broken off: {moved_as_text(latest, dry_run=plan.dry_run)} until now", err=True)
            raise
