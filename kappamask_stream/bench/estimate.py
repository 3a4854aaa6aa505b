"""How long a benchmark will take, as far as that is known before. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.bench.wording import counted, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.bench.running import Bench
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.product import Product

#: Millions of pixels that a core decodes a second, in 10 m bands (FACTS.md section 3).
_MPX_PER_CORE_S = 10.0
#: Starting processes, warming up for a point.
_STARTS_S, _WARM_UP_S = 4.0, 3.0
#: The client's level decodes the product twice: alone, and as the client does.
_PASSES = 2


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds per level, in their order.

    Attributes
    ----------
    seconds : by name of the level.
    products : end to end.
    """

    seconds: dict[str, float]
    products: int

    @classmethod
    def of(cls, bench: Bench, product: Product, contract: ModelContract, concurrency: Sequence[int]) -> Estimate:
        """Estimate from the number of points, and from the pixels that the model's bands have."""
        pixels = sum(
            len(group.bands) * rows * cols
            for group in contract.inputs
            for rows, cols in [product.sizes.get(group.gsd_m, (0, 0))]
        )
        decode_s = pixels / 1e6 / _MPX_PER_CORE_S / bench.settings.decode_threads
        products = 2 * bench.settings.products_at_once
        seconds: dict[str, float] = {}
        if "server" in bench.levels:
            seconds["server"] = _STARTS_S + len(concurrency) * (bench.duration_s + _WARM_UP_S)
        if "client" in bench.levels:
            seconds["client"] = bench.rounds * (_STARTS_S + _PASSES * decode_s)
        if "end-to-end" in bench.levels:
            seconds["end-to-end"] = _STARTS_S + max(bench.duration_s, products * decode_s)
        return cls(seconds=seconds, products=products)

    @property
    def text(self) -> str:
        """Say it in one line."""
        parts = ", ".join(f"{level} {number(round(seconds))}" for level, seconds in self.seconds.items())
        more = (
            f"; longer where the server takes longer for {counted(self.products, 'product')}"
            if "end-to-end" in self.seconds
            else ""
        )
        return f"measuring takes about {number(round(sum(self.seconds.values())))} s ({parts}){more}"
