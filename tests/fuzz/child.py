"""One fuzz target in a process of its own, under atheris: ``python -m tests.fuzz.child PACKAGE NAME FOLDER FINDINGS FLAG ...``.

An exception that a target lets through, more than a second of CPU time for one input and more than 256 MB of new
address space are findings: the input is saved, and the fuzzing goes on. What cannot be gone on from - an input that
hangs, a crash of native code - ends the process; libFuzzer saves that input, and `campaign` starts another one.

Without AddressSanitizer libFuzzer sees no allocation of Python's, and looks at the resident size once a second
(``-malloc_limit_mb`` does nothing, ``-rss_limit_mb`` blames whichever input runs then). So the address space is looked
at here, after each input.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import random
import re
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz.growth import grown

if TYPE_CHECKING:
    from collections.abc import Callable

SLOWEST_S = 1.0
MOST_BYTES = 256 << 20
#: Findings of so many kinds are saved; the target has more to be repaired than that can tell.
_MOST_KINDS = 20
#: A finding takes `MOST_BYTES`; so much is refused, that the machine lives on.
_CEILING_BYTES = 4 << 30
_TOLD_EVERY_S = 0.25
#: Share of inputs that a target with rules of its own mutates.
_OWN_MUTATIONS = 0.5
#: Share of inputs that grow where long ones are read: they cost what hundreds of short ones do.
_GROWN = 0.02
#: Bytes of an input where a target does not say `LONGEST`.
_LONGEST = 4096
_SIZES = re.compile(rb"VmPeak:\s+(\d+) kB\nVmSize:\s+(\d+) kB")


class AddressSpace:
    """How much address space an input takes beyond what the process has at rest: also what it never writes to.

    The kernel tells the largest that there ever was, so an input is seen where it takes more than all before it.
    """

    def __init__(self) -> None:
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._peak, self.rest = self._sizes()

    def taken(self) -> int:
        """Return bytes that the input took; 0 where they are no more than an earlier one's."""
        peak, size = self._sizes()
        rest, self.rest = min(self.rest, size), size
        if peak <= self._peak:
            return 0
        self._peak = peak
        return peak - rest

    def _sizes(self) -> tuple[int, int]:
        found = _SIZES.search(os.pread(self._status, 1024, 0))
        assert found is not None
        return int(found[1]) << 10, int(found[2]) << 10


def signature(error: BaseException) -> str:
    """Name what was raised, and where in the project: findings of one signature are one defect."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.endswith("/tests/fuzz/child.py")]
    own = [f for f in frames if "site-packages" not in f.filename and "/lib/python3" not in f.filename]
    where = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in (own or frames)[-1:]]
    return f"{type(error).__name__} at {where[0] if where else '?'}"


class Watch:
    """Runs inputs, saves those that are findings, and keeps count in a file.

    Parameters
    ----------
    one_input : of the target.
    told_in : file for the counts.
    findings : folder for inputs that are findings.
    """

    def __init__(self, one_input: Callable[[bytes], None], *, told_in: Path, findings: Path) -> None:
        self._one_input, self._told_in, self._findings = one_input, told_in, findings
        self._space: AddressSpace | None = None
        self._seen: set[str] = set()
        self._next_told = self._worst_s = 0.0
        self._most_bytes = 0

    def start_afresh(self) -> None:
        """Look at the address space as it is when the next input comes: somebody else takes of it now."""
        self._space = None

    def __call__(self, data: bytes) -> None:
        """Run one input."""
        if self._space is None:  # when libFuzzer has taken what it needs
            self._space = AddressSpace()
        begin = time.process_time()
        try:
            self._one_input(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  (a finding, whatever it is)
            self._save(data, "raises", signature(error), "".join(traceback.format_exception(error)))
        end = time.process_time()
        taken = self._space.taken()
        self._worst_s, self._most_bytes = max(self._worst_s, end - begin), max(self._most_bytes, taken)
        if end - begin > SLOWEST_S:
            self._save(
                data, "slow", "slow", f"it took {end - begin:.2f} s of CPU time, at most {SLOWEST_S:g} are wanted"
            )
        if taken > MOST_BYTES:
            said = f"it took {taken >> 20} MB of address space, at most {MOST_BYTES >> 20} are wanted"
            self._save(data, "allocates", "allocates", said)
        if end > self._next_told:
            self._next_told = end + _TOLD_EVERY_S
            self._tell()

    def _tell(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        said = {"worst_s": self._worst_s, "most_bytes": self._most_bytes, "peak_rss_bytes": peak}
        new = self._told_in.with_suffix(".new")
        new.write_text(json.dumps(said))
        new.replace(self._told_in)

    def _save(self, data: bytes, kind: str, said: str, explained: str) -> None:
        if said in self._seen or len(self._seen) == _MOST_KINDS:
            return
        self._seen.add(said)
        self._findings.mkdir(parents=True, exist_ok=True)
        path = self._findings / f"{kind}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        found = {"file": str(path), "kind": kind, "said": said, "explained": explained}
        print(f"\nFINDING {json.dumps(found)}", flush=True)
        self._tell()


def main() -> None:
    """Fuzz until libFuzzer's limits are reached."""
    import atheris

    package, name, folder, findings = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    with atheris.instrument_imports(include=["kappamask_stream", "server_models", package.partition(".")[0]]):
        target = importlib.import_module(f"{package}.{name}_target")
        for seed in target.seeds():
            (folder / "seeds" / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
            with contextlib.suppress(BaseException):  # what is imported late is imported now; findings come below
                target.one_input(seed)
    watch = Watch(target.one_input, told_in=folder / "told.json", findings=findings)
    resource.setrlimit(resource.RLIMIT_AS, (AddressSpace().rest + _CEILING_BYTES, resource.RLIM_INFINITY))
    words = target.dictionary() if hasattr(target, "dictionary") else []
    (folder / "words.dict").write_text("".join(f'"{_escaped(word)}"\n' for word in words if word))
    longest = getattr(target, "LONGEST", _LONGEST)
    # Any length at once: how long inputs are is decided here, by few that grow.
    flags = [*sys.argv[5:], f"-max_len={longest}", "-len_control=0"]
    flags += [f"-dict={folder / 'words.dict'}"] if words else []
    for data in target.large().values() if hasattr(target, "large") else ():
        watch(data)
    watch.start_afresh()
    mutate, grows, more = getattr(target, "mutate", None), longest > _LONGEST, {}
    if grows or mutate is not None:
        more["custom_mutator"] = _mutator(mutate, grows=grows)
    atheris.Setup([sys.argv[0], *flags, str(folder / "corpus"), str(folder / "seeds")], watch, **more)
    atheris.Fuzz()


def _mutator(
    mutate: Callable[[bytes, random.Random], bytes] | None, *, grows: bool
) -> Callable[[bytes, int, int], bytes]:
    """Mutate by the target's own rules, if it has some, and by libFuzzer's, in turn; now and then let an input grow."""
    import atheris

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        which = rng.random()
        if grows and which < _GROWN:
            made = grown(data, rng, most)
        else:
            made = mutate(data, rng) if mutate is not None and which < _OWN_MUTATIONS else data
        if made == data or len(made) > most:
            made = atheris.Mutate(data, len(data))[:most] if len(data) >= most else atheris.Mutate(data, most)
        return made

    return mutator


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
