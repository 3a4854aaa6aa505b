"""One finding again, without atheris: ``python -m tests.fuzz.replay PACKAGE NAME FILE``.

Prints what is wrong with the input (exit 1) or nothing (exit 0): over a second of CPU time, or 20 s in all (with
the stack where that is found, and another exit status), over 256 MB, or what is raised, for which the file is first made
as short as is cheap.
"""

from __future__ import annotations

import faulthandler
import importlib
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz.child import MOST_BYTES, SLOWEST_S, AddressSpace, signature

if TYPE_CHECKING:
    from collections.abc import Callable

_SHORTENING_S = 5.0
_WAITS_S = 20.0


def main() -> int:
    """Run the input, and say what it does."""
    package, name, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    one_input = importlib.import_module(f"{package}.{name}_target").one_input
    _raised(one_input, b"")  # what is imported late
    resource.setrlimit(resource.RLIMIT_AS, (AddressSpace().rest + MOST_BYTES, resource.RLIM_INFINITY))
    data = path.read_bytes()
    # CPU time, for the machine may be busy; one that sleeps is over later.
    faulthandler.register(signal.SIGPROF, chain=True)
    signal.setitimer(signal.ITIMER_PROF, SLOWEST_S)
    faulthandler.dump_traceback_later(_WAITS_S, exit=True)
    error = _raised(one_input, data)
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_PROF, 0)
    if error is None:
        return 0
    print(signature(error))
    traceback.print_exception(error)
    if not isinstance(error, MemoryError):
        path.write_bytes(_shortened(one_input, data, signature(error)))
    return 1


def _raised(one_input: Callable[[bytes], None], data: bytes) -> BaseException | None:
    try:
        one_input(data)
    except BaseException as error:  # noqa: BLE001  (a finding, whatever it is)
        return error
    return None


def _shortened(one_input: Callable[[bytes], None], data: bytes, said: str) -> bytes:
    """Leave pieces out, smaller and smaller ones, as long as the same is raised."""
    end, piece = time.monotonic() + _SHORTENING_S, max(len(data) // 2, 1)
    while time.monotonic() < end:
        at = 0
        while at < len(data) and time.monotonic() < end:
            less = data[:at] + data[at + piece :]
            error = _raised(one_input, less)
            if error is not None and signature(error) == said:
                data = less
            else:
                at += piece
        if piece == 1:
            break
        piece //= 2
    return data


if __name__ == "__main__":
    sys.exit(main())
