"""What a benchmark says to the processes that send its tiles, and what they answer. Values; they travel pickled.

First `Connect`, answered with `Connected`. Then for each point `Start`, `Look` as often as one likes, `Begin`, `End`
and `Stop`, in this order; a `Look` is answered with `Seen`, a `Stop` with `Sent`, the others with `Done`. Any may be
answered with `processes.messages.Failure`. The end of the stream means: stop now.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kappamask_stream.inference import TritonClient
from kappamask_stream.inference.security import Security

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.bench.tiles import TileSet
    from kappamask_stream.inference.types import Transport
    from kappamask_stream.processes.messages import Failure
    from kappamask_stream.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Connect:
    """Where to connect, and what to send.

    Attributes
    ----------
    settings : `triton` names the server.
    model : name of the served model.
    memory_key : see `ServerPlace`.
    tiles : to be sent.
    """

    settings: Settings
    model: str
    memory_key: str | None = field(repr=False)
    tiles: TileSet

    async def connect(self) -> TritonClient:
        """Connect; raises as `TritonClient.connect`."""
        assert self.settings.triton is not None  # noqa: S101 - for the type checker
        return await TritonClient.connect(
            self.settings.triton,
            self.model,
            security=Security.of(self.settings),
            infer_timeout_s=self.settings.infer_timeout_s,
            server_wait_s=self.settings.server_wait_s,
            shared_memory=self.settings.shared_memory == "auto",
            memory_key=self.memory_key,
            priority=self.settings.priority or "interactive",
            canary_s=0.0,  # on connecting, and where there is reason to doubt: nothing else is to be measured
        )


@dataclass(frozen=True, kw_only=True)
class Connected:
    """How tensors will travel."""

    transport: Transport


@dataclass(frozen=True, kw_only=True)
class Start:
    """Begin to send, with so many requests in flight; `first` and `step` are those of `ClosedLoop`."""

    concurrency: int
    first: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Look:
    """Say how far it is."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How far it is.

    Attributes
    ----------
    rounds : answers of the slot that has least.
    whole : requests that were sent since the interval began, and are answered.
    errors : of requests, other than those that found the queue full.
    """

    rounds: int
    whole: int
    errors: Sequence[Failure]


@dataclass(frozen=True, kw_only=True)
class Begin:
    """The measured interval begins."""


@dataclass(frozen=True, kw_only=True)
class End:
    """It has ended."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Send no more, wait for what is in flight, and say what came of the interval from `begin_s` to `end_s`.

    Both are on the clock of `time.monotonic`, which processes of one machine share.
    """

    begin_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What came of an interval.

    Attributes
    ----------
    answered : requests whose answer came in it.
    last_before_s, last_s : when the last answer before it came, and the last one in it; None without any.
    latencies_s : of those that were sent in it, too.
    turned_away : requests that found the queue full.
    turned_away_text : what the server said to the first of them.
    errors : of other requests that failed, since `Start`.
    cpu_s : CPU seconds of the process.
    lag_p99_s : of its event loop; None where the interval was too short to see any.
    """

    answered: int
    last_before_s: float | None
    last_s: float | None
    latencies_s: Sequence[float]
    turned_away: int
    turned_away_text: str | None
    errors: Sequence[Failure]
    cpu_s: float
    lag_p99_s: float | None


@dataclass(frozen=True, kw_only=True)
class Done:
    """It is done."""


Order = Start | Look | Begin | End | Stop
