"""A client process of its own: leases the local server, says so, and holds on until its standard input ends.

python lease_holder.py MODEL [--weights FILE]
"""

import asyncio
import json
import sys
from pathlib import Path

from kappamask_stream.cli.event_loop import run_command
from kappamask_stream.errors import KappaMaskError
from kappamask_stream.server import lease_local_server
from kappamask_stream.settings import load_settings


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


async def hold(model: str, weights: Path | None) -> None:
    async with lease_local_server(
        model=model,
        weights=weights,
        env=load_settings().server_env,
        on_progress=lambda text: say(event="progress", text=text),
    ) as server:
        say(
            event="ready",
            address=server.grpc_address,
            model=server.model_name,
            log=str(server.log_path),
            memory_key=server.memory_key,
        )
        # A thread could not be interrupted: standard input is watched by the loop.
        await (await _standard_input()).read()


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    try:
        run_command(hold(sys.argv[1], Path(sys.argv[3]) if "--weights" in sys.argv else None))
    except KappaMaskError as error:
        say(event="error", kind=type(error).__name__, message=str(error))
        raise SystemExit(error.exit_code) from None
