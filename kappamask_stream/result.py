"""What a run says about a product: progress while it lasts, a result when it ends."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kappamask_stream.errors import KappaMaskError
    from kappamask_stream.inference.types import BatchSizes

State = Literal["waiting", "opening", "verifying", "indexing", "streaming", "closing", "done", "skipped", "failed"]


@dataclass(kw_only=True)
class ProductProgress:
    """Mutable picture of a product in work: the pipeline writes it, progress displays read it.

    Attributes
    ----------
    product : name of the product; until it is opened, the path as given.
    state : what is happening.
    tiles_total, tiles_read, tiles_in_flight, tiles_done : counts of tiles of the grid.
    pixels_read : pixels of the mask's resolution in tiles read (for Mpx/s).
    started : time.monotonic() of the start of streaming.
    note : last remarkable event in words (a retry, an overload).
    on_retry : told the error's class name, and in words, of each tile that is sent again.
    """

    product: str
    state: State = "waiting"
    tiles_total: int = 0
    tiles_read: int = 0
    tiles_in_flight: int = 0
    tiles_done: int = 0
    pixels_read: int = 0
    started: float = field(default_factory=time.monotonic)
    note: str | None = None
    on_retry: Callable[[str, str], None] = field(default=lambda _cause, _text: None, repr=False, compare=False)

    def retried(self, cause: str, text: str) -> None:
        """Take down that a tile is sent again."""
        self.note = text
        self.on_retry(cause, text)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the tiles done so far; None before there is anything to go by."""
        if not self.tiles_done or not self.tiles_total:
            return None
        return (time.monotonic() - self.started) * (self.tiles_total - self.tiles_done) / self.tiles_done

    @property
    def megapixels_per_s(self) -> float:
        """Mask pixels read per second since the start, in millions."""
        return self.pixels_read / 1e6 / max(1e-9, time.monotonic() - self.started)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When each stage of a product was busy, for a waterfall.

    Attributes
    ----------
    spans : per stage, (start, end) in seconds since the product was begun; they overlap where threads do.
    seconds : from the beginning to now.
    """

    spans: Mapping[str, Sequence[tuple[float, float]]]
    seconds: float


class StageClock:
    """Seconds that each stage of a product was busy, over all threads and tasks, and when; safe from any thread."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._spans: dict[str, list[tuple[float, float]]] = {}
        # Blocks that are measured at the moment, by an identity of their own.
        self._open: dict[object, tuple[str, float]] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Note the duration of the block."""
        started, block = time.perf_counter(), object()
        self._open[block] = stage, started
        try:
            yield
        finally:
            # Noted first: a look from another thread may find it twice, but never miss it.
            self.note(stage, started, time.perf_counter())
            del self._open[block]

    def note(self, stage: str, started: float, ended: float) -> None:
        """Note that a stage was busy between two readings of ``time.perf_counter()``."""
        # setdefault and append are one step each to other threads.
        self._spans.setdefault(stage, []).append((started - self._started, ended - self._started))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds busy per stage."""
        return {stage: sum(end - start for start, end in spans) for stage, spans in self._spans.items()}

    def timeline(self) -> Timeline:
        """Return what was noted so far; blocks that are not over yet reach until now."""
        now = time.perf_counter()
        spans = {stage: list(spans) for stage, spans in list(self._spans.items())}
        for stage, started in list(self._open.values()):
            spans.setdefault(stage, []).append((started - self._started, now - self._started))
        return Timeline(spans={stage: tuple(found) for stage, found in spans.items()}, seconds=now - self._started)


def peak_rss_bytes() -> int | None:
    """Return this process's peak resident set size in bytes, None where the system does not tell.

    On Linux from VmHWM: getrusage would count what the process was before exec.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return None if line is None else int(line.split()[1]) * 1024


@dataclass(frozen=True, kw_only=True)
class ProductResult:
    """How one product ended.

    Attributes
    ----------
    product : name, or the path as given where the product could not be opened.
    status : ``done``, ``skipped`` (a valid output of the same fingerprint was there, or another process finished one
        first) or ``failed``.
    output, quicklook : paths or URLs of the mask and of its small picture, None where failed.
    files : paths or URLs of all files that were asked for, the mask's first; tiles' own masks are in their list only;
        none where failed.
    error : why it failed.
    seconds : wall time from the opened product and the connected model to the closed file; of a failure, from its
        turn to the failure.
    tiles, tiles_inferred, tiles_empty : of the grid; empty ones hold no data and were not sent.
    codestream_tiles_decoded, codestream_tiles_empty, codestream_tiles_decoded_twice : of the JPEG 2000 files;
        empty ones have the bytes of one already decoded to all zero.
    requests : reads of the band files begun; from a store, each is a request.
    bytes_read : from the band files, their headers included.
    tail_seconds : from the last answer to the closed file.
    classes : share of all pixels (of the area of interest) per class name; empty unless done.
    stages : seconds busy per stage, summed over threads.
    model : Triton model name.
    batch_sizes : of the server while this product was in work, all clients counted.
    fingerprint : of product, model, weights, radiometry, mosaic and contract.
    retries : requests that were sent again.
    canary : True where the server was seen to answer rightly, False where its contract knows no tile's answer to see it
        by; None unless done.
    notes : what people should know of the mask: which offsets were believed, which bands were resampled.
    peak_rss_bytes : of the process that masked it, when it ended; None where the system does not tell.
    """

    product: str
    status: Literal["done", "skipped", "failed"]
    output: str | None = None
    quicklook: str | None = None
    files: tuple[str, ...] = ()
    error: KappaMaskError | None = None
    seconds: float = 0.0
    tiles: int = 0
    tiles_inferred: int = 0
    tiles_empty: int = 0
    codestream_tiles_decoded: int = 0
    codestream_tiles_empty: int = 0
    codestream_tiles_decoded_twice: int = 0
    requests: int = 0
    bytes_read: int = 0
    tail_seconds: float | None = None
    classes: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    model: str | None = None
    batch_sizes: BatchSizes | None = None
    fingerprint: str | None = None
    retries: int = 0
    canary: bool | None = None
    notes: tuple[str, ...] = ()
    peak_rss_bytes: int | None = field(default_factory=peak_rss_bytes, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints, one per product."""
        counts = self.batch_sizes.counts if self.batch_sizes else None
        reason = self.batch_sizes.reason if self.batch_sizes else f"the product was {self.status}"
        return {
            "product": self.product,
            "status": self.status,
            "output": self.output,
            "quicklook": self.quicklook,
            "files": list(self.files),
            "error": str(self.error) if self.error else None,
            "exit_code": self.error.exit_code if self.error else 0,
            "seconds": round(self.seconds, 3),
            "tiles": self.tiles,
            "tiles_inferred": self.tiles_inferred,
            "tiles_empty": self.tiles_empty,
            "codestream_tiles_decoded": self.codestream_tiles_decoded,
            "codestream_tiles_empty": self.codestream_tiles_empty,
            "codestream_tiles_decoded_twice": self.codestream_tiles_decoded_twice,
            "requests": self.requests,
            "bytes_read": self.bytes_read,
            "tail_seconds": None if self.tail_seconds is None else round(self.tail_seconds, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
            "classes": {name: round(share, 6) for name, share in self.classes.items()},
            "stages": {stage: round(seconds, 3) for stage, seconds in self.stages.items()},
            "model": self.model,
            "batch_sizes": None if counts is None else {str(size): n for size, n in counts.items()},
            "batch_sizes_reason": reason,
            "retries": self.retries,
            "canary": self.canary,
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }
