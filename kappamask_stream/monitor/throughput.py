"""How much was done in the last hour, in steps of ten seconds. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_STEP_S = 10.0
_HOUR_S = 3600.0
_STEPS_A_MINUTE = 6


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What was done in a while.

    Attributes
    ----------
    products_per_h : masked; those that were found finished are not counted.
    megapixels_per_s : pixels of masks whose tiles were read, in millions.
    """

    products_per_h: float
    megapixels_per_s: float


@dataclass(kw_only=True)
class _Step:
    number: int
    products: int = 0
    pixels: int = 0


class Throughput:
    """Counts products and pixels by when they came.

    State: the steps of the last hour in which something was done.

    Parameters
    ----------
    now : of the beginning; times are those of one steady clock, seconds.
    """

    def __init__(self, now: float) -> None:
        self._began = now
        self._steps: deque[_Step] = deque()

    def add(self, now: float, *, products: int = 0, pixels: int = 0) -> None:
        """Count what was done."""
        if not products and not pixels:
            return
        number = self._number(now)
        if not self._steps or self._steps[-1].number < number:
            self._steps.append(_Step(number=number))
        step = self._steps[-1]
        step.products += products
        step.pixels += pixels
        self._forget(number)

    def rate(self, now: float, window_s: float) -> Rate:
        """Return what was done in about the last `window_s` seconds, or since the beginning if that is less."""
        first = self._number(now) - int(window_s // _STEP_S)
        steps = [step for step in self._steps if step.number >= first]
        seconds = max(_STEP_S, now - self._began - max(0.0, first * _STEP_S))
        return Rate(
            products_per_h=sum(step.products for step in steps) * _HOUR_S / seconds,
            megapixels_per_s=sum(step.pixels for step in steps) / 1e6 / seconds,
        )

    def minutes(self, now: float) -> list[tuple[int, float]]:
        """Return (products, megapixels) of each of the last 60 minutes, the oldest first."""
        this = self._number(now)
        found = [[0, 0] for _ in range(60)]
        for step in self._steps:
            ago = (this - step.number) // _STEPS_A_MINUTE
            if 0 <= ago < len(found):
                found[-1 - ago][0] += step.products
                found[-1 - ago][1] += step.pixels
        return [(products, pixels / 1e6) for products, pixels in found]

    def _number(self, now: float) -> int:
        return int((now - self._began) // _STEP_S)

    def _forget(self, number: int) -> None:
        while self._steps[0].number < number - _HOUR_S / _STEP_S:
            self._steps.popleft()
