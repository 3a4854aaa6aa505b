"""Inputs of a target that are near its parser's limits, in a process of its own: ``python -m tests.fuzz.near_limits NAME``.

Prints a JSON object: of each input the CPU time, s, and the address space that it took, bytes (0 where no more than one
before it).
"""

from __future__ import annotations

import importlib
import json
import sys
import time

from tests.fuzz.child import AddressSpace


def main(name: str) -> None:
    """Run them, one after the other; what a target lets through ends the process."""
    target = importlib.import_module(f"tests.fuzz.{name}_target")
    for seed in target.seeds():  # what is imported late
        target.one_input(seed)
    took: dict[str, tuple[float, int]] = {}
    for what, data in target.large().items():
        space, begin = AddressSpace(), time.process_time()
        target.one_input(data)
        took[what] = time.process_time() - begin, space.taken()
    print(json.dumps(took))


if __name__ == "__main__":
    main(sys.argv[1])
