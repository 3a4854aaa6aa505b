"""Run one of this package's commands in a process of its own: it needs memory for a moment only, and can be ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import ServerSetupError, error_kinds
from server_models.tether import tethered

if TYPE_CHECKING:
    from collections.abc import Callable

_ENDS_S = 5.0
#: A report is one line; asyncio's own limit is 64 KiB.
_LONGEST_LINE = 2**24


async def run_apart(arguments: list[str], say: Callable[[str], None], *, failed: str) -> dict[str, Any]:
    """Run ``python -m server_models ARGUMENTS`` and return the last thing that it prints.

    Parameters
    ----------
    say : told the texts of its progress.
    failed : begins the message where it fails, e.g. ``cannot build csmask_l2a``.

    Raises
    ------
    KappaMaskError
        Of the kind that the command reports. When cancelled, the process has ended and removed what it had half done.
    """
    command = [sys.executable, "-I", "-m", "server_models", *arguments]
    process = await asyncio.create_subprocess_exec(
        *tethered(command, signal.SIGTERM),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE,
    )
    event: dict[str, Any]
    try:
        event, complaint = await asyncio.gather(_follow(process, say), _read_all(process.stderr))
        await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _ENDS_S)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    if process.returncode:
        message = event.get("message") or complaint.strip()[-500:] or "no reason given"
        raise error_kinds().get(event.get("kind", ""), ServerSetupError)(f"{failed}: {message}")
    return event


async def _follow(process: asyncio.subprocess.Process, say: Callable[[str], None]) -> dict[str, Any]:
    event: dict[str, Any] = {}
    assert process.stdout is not None  # noqa: S101 - for the type checker
    while line := await process.stdout.readline():
        if not line.startswith(b"{"):  # what a library prints
            continue
        event = json.loads(line)
        if event["event"] == "progress":
            say(event["text"])
    return event


async def _read_all(stream: asyncio.StreamReader | None) -> str:
    return (await stream.read()).decode(errors="replace") if stream is not None else ""
