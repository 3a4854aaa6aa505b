"""Whether the worker could take a message now; asked by anybody, answered from a probe that runs seldom."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kappamask_stream.monitor.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kappamask_stream.worker.types import Probe

#: Answers are given again for so long: however many ask, Triton and the queue are asked as often as this.
_FRESH_S = 2.0
_PATIENCE_S = 8.0
#: The probe is run as often without being asked, for the metric.
_PERIOD_S = 15.0


class Readiness:
    """Runs the probe, one at a time, and remembers what it said.

    State: the last answer and when it came; the probe that is running; whether it is over.

    Parameters
    ----------
    probe : asks Triton and the queue.
    redaction : of reasons.
    tell : called with each new answer.
    """

    def __init__(
        self,
        probe: Probe,
        *,
        redaction: Redaction | None = None,
        tell: Callable[[Mapping[str, str | None]], None] = lambda _: None,
    ) -> None:
        self._probe, self._redaction, self._tell = probe, redaction or Redaction(), tell
        self.last: Mapping[str, str | None] = {}
        self._asked_at = -_FRESH_S
        self._running: asyncio.Task[None] | None = None
        self._is_closed = False

    async def parts(self) -> Mapping[str, str | None]:
        """Return per part None where it answers, else why not."""
        loop = asyncio.get_running_loop()
        is_old = loop.time() - self._asked_at >= _FRESH_S
        if self._running is None and is_old and not self._is_closed:
            self._running = asyncio.create_task(self._ask(), name="probe")
        if self._running is not None:
            await asyncio.wait([self._running])  # whoever asks may go away: the others still want the answer
        return self.last

    async def run(self) -> None:
        """Keep the answer fresh until cancelled."""
        while True:
            await self.parts()
            await asyncio.sleep(_PERIOD_S)

    async def aclose(self) -> None:
        """End the probe that is running; no other is begun."""
        self._is_closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                said = dict(await self._probe())
        except TimeoutError:
            said = dict.fromkeys(self.last or ("probe",), f"no answer within {_PATIENCE_S:g} s")
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker is not known to be ready
            said = dict.fromkeys(self.last or ("probe",), f"{type(error).__name__}: {error}")
        finally:
            self._asked_at, self._running = asyncio.get_running_loop().time(), None
        self.last = {part: None if why is None else self._redaction.text(why) for part, why in said.items()}
        self._tell(self.last)
