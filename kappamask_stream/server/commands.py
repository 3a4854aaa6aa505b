"""Run a long command of the server's environment and follow what it says."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import ServerSetupError, error_kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kappamask_stream.server.environment import ServerEnvironment

_ENDS_S = 5.0
_LONGEST_LINE = 2**24


async def follow(
    environment: ServerEnvironment, arguments: Sequence[str], on_progress: Callable[[str], None]
) -> dict[str, Any]:
    """Run ``python -m server_models`` in the environment and return the last JSON object that it prints.

    Parameters
    ----------
    on_progress : told what is being waited for.

    Raises
    ------
    KappaMaskError
        Of the kind that it reports. When cancelled, the process has ended.
    """
    process = await asyncio.create_subprocess_exec(
        str(environment.python), "-I", "-m", "server_models", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=_LONGEST_LINE,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 - for the type checker
    event: dict[str, Any] = {}
    complaint = asyncio.create_task(process.stderr.read())
    try:
        while line := await process.stdout.readline():
            if line.startswith(b"{"):
                event = json.loads(line)
                if event["event"] == "progress":
                    on_progress(event["text"])
        code, said = await process.wait(), await complaint
    finally:
        complaint.cancel()
        if process.returncode is None:
            process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _ENDS_S)
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        message = event.get("message") or said.decode(errors="replace").strip()[-800:] or "no reason given"
        raise error_kinds().get(str(event.get("kind")), ServerSetupError)(message)
    return event
