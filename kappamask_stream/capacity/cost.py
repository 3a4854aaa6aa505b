"""What a plan costs at prices that somebody names; there are no prices in this package."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING

from kappamask_stream.errors import UsageError

if TYPE_CHECKING:
    from kappamask_stream.capacity.plan import CapacityPlan

_DAYS_PER_MONTH = Fraction(36525, 1200)
_GB = 10**9
_DEAREST = 1e9


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices, in one currency; None where it is not known.

    Attributes
    ----------
    gpu_hour : of one GPU with its machine.
    core_hour : of one core with its memory.
    gb_in : of 10^9 bytes that are read (what a requester pays, or another region).
    gb_egress : of 10^9 bytes of masks that leave.
    gb_month : of 10^9 bytes kept for a month.
    thousand_requests : to the store that products are in.
    """

    gpu_hour: Fraction | None = None
    core_hour: Fraction | None = None
    gb_in: Fraction | None = None
    gb_egress: Fraction | None = None
    gb_month: Fraction | None = None
    thousand_requests: Fraction | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            price = getattr(self, item.name)
            if price is not None and not 0 <= price <= _DEAREST:
                raise UsageError(f"the price {item.name} is {float(price):g}, 0 to {_DEAREST:g} is possible")


@dataclass(frozen=True, kw_only=True)
class CostLine:
    """One of the things that are paid for.

    Attributes
    ----------
    name : the field of `Prices`.
    per_day : how many of its units a day.
    price : of one.
    """

    name: str
    per_day: Fraction
    price: Fraction

    @property
    def cost_per_day(self) -> Fraction:
        """In the currency of the price."""
        return self.per_day * self.price


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a plan costs.

    Attributes
    ----------
    lines : of what has a price.
    without_price : names of what is needed and has none.
    products_per_day : that it is for.
    """

    lines: tuple[CostLine, ...]
    without_price: tuple[str, ...]
    products_per_day: Fraction

    @property
    def per_day(self) -> Fraction:
        """Sum of the lines."""
        return sum((line.cost_per_day for line in self.lines), Fraction(0))

    @property
    def per_product(self) -> Fraction:
        """The same, for one."""
        return self.per_day / self.products_per_day


def cost_of(plan: CapacityPlan, prices: Prices, *, keep_days: int) -> Cost:
    """Multiply: machines are paid for around the clock, whether they are busy or not.

    Parameters
    ----------
    keep_days : how long masks are kept: what is stored then is paid for.
    """
    needed = _needed(plan, keep_days)
    given = {item.name: getattr(prices, item.name) for item in fields(prices)}
    return Cost(
        lines=tuple(
            CostLine(name=name, per_day=amount, price=given[name])
            for name, amount in needed.items()
            if given[name] is not None
        ),
        without_price=tuple(name for name in needed if given[name] is None),
        products_per_day=plan.load.products_per_day,
    )


def _needed(plan: CapacityPlan, keep_days: int) -> dict[str, Fraction]:
    """Return what is paid for, in its units, a day; only what the plan has."""
    on_gpu = plan.server.name == "gpu"
    cores = plan.worker.provided + (0 if on_gpu else plan.server.provided)
    needed = {"gpu_hour": Fraction(24 * plan.server.provided)} if on_gpu else {}
    needed["core_hour"] = Fraction(24 * cores)
    needed["gb_in"] = plan.flows["bytes_read"].per_day / _GB
    written = plan.flows["bytes_written"].per_day / _GB
    needed["gb_egress"] = written
    needed["gb_month"] = written * keep_days / _DAYS_PER_MONTH
    if "requests" in plan.flows:
        needed["thousand_requests"] = plan.flows["requests"].per_day / 1000
    return needed
