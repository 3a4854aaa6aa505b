"""A load, and what works on it or flows because of it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from kappamask_stream.errors import UsageError

DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is to be masked, and how much room is wanted.

    Attributes
    ----------
    products_per_day : on average, 0.001 to 10^9.
    peak_factor : the busiest hours bring so many times the average; 1 to 1000.
    utilisation : how busy machines may be then, 0.01 to 1: above about 0.8 queues grow long.
    data_share : of a product's tiles hold data, 0.001 to 1; None: as measured.
    serve : what the network runs on; None: a GPU where a figure of one is there.
    worker_cores : of one worker process; None: as the client was measured.
    """

    products_per_day: Fraction
    peak_factor: Fraction = Fraction(2)
    utilisation: Fraction = Fraction(4, 5)
    data_share: Fraction | None = None
    serve: Literal["gpu", "cpu"] | None = None
    worker_cores: int | None = None

    def __post_init__(self) -> None:
        _require("products a day", self.products_per_day, Fraction(1, 1000), Fraction(10**9))
        _require("the peak factor", self.peak_factor, Fraction(1), Fraction(1000))
        _require("the utilisation", self.utilisation, Fraction(1, 100), Fraction(1))
        if self.data_share is not None:
            _require("the share of tiles with data", self.data_share, Fraction(1, 1000), Fraction(1))
        if self.worker_cores is not None:
            _require("a worker's cores", Fraction(self.worker_cores), Fraction(1), Fraction(10_000))

    @property
    def mean_per_s(self) -> Fraction:
        """Products a second, on average."""
        return self.products_per_day / DAY_S

    @property
    def peak_per_s(self) -> Fraction:
        """Products a second in the busiest hours."""
        return self.mean_per_s * self.peak_factor


@dataclass(frozen=True, kw_only=True)
class Resource:
    """Something that works on one product at a time: a GPU, a core.

    Attributes
    ----------
    name : ``gpu``, ``worker_cores`` or ``server_cores``.
    seconds : of one of them, for one product.
    provided : how many.
    load : that they are for.
    """

    name: Literal["gpu", "worker_cores", "server_cores"]
    seconds: Fraction
    provided: int
    load: Load

    @property
    def mean(self) -> Fraction:
        """How many are busy on average."""
        return self.load.mean_per_s * self.seconds

    @property
    def peak(self) -> Fraction:
        """How many are busy in the busiest hours; at most `provided` times the utilisation."""
        return self.load.peak_per_s * self.seconds

    @property
    def enough_for(self) -> Fraction:
        """Products a day for which `provided` would be enough, with the same peaks and utilisation."""
        return self.provided * self.load.utilisation * DAY_S / (self.seconds * self.load.peak_factor)

    @property
    def most_per_s(self) -> Fraction:
        """Products a second with all of them busy all the time."""
        return self.provided / self.seconds


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Something that is moved, or counted, for each product.

    Attributes
    ----------
    name : ``bytes_read``, ``bytes_to_server``, ``bytes_from_server``, ``bytes_written`` or ``requests``.
    per_product : bytes, or requests.
    load : that is planned for.
    """

    name: str
    per_product: Fraction
    load: Load

    @property
    def per_day(self) -> Fraction:
        """On average."""
        return self.per_product * self.load.products_per_day

    @property
    def mean_per_s(self) -> Fraction:
        """On average."""
        return self.per_product * self.load.mean_per_s

    @property
    def peak_per_s(self) -> Fraction:
        """In the busiest hours."""
        return self.per_product * self.load.peak_per_s


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Processes of one kind.

    Attributes
    ----------
    count : how many.
    cores : of each.
    rss_bytes : memory of each; None where no file says so.
    """

    count: int
    cores: int
    rss_bytes: Fraction | None

    @property
    def memory_bytes(self) -> Fraction | None:
        """Of all of them."""
        return None if self.rss_bytes is None else self.count * self.rss_bytes


def _require(what: str, value: Fraction, least: Fraction, most: Fraction) -> None:
    if not least <= value <= most:
        raise UsageError(f"{what}: {float(value):g} was given, {float(least):g} to {float(most):g} is possible")
