"""Products through the real network: how many an hour, in one client process that has several in work at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.bench.apart import in_child
from kappamask_stream.bench.products_work import MaskMany
from kappamask_stream.bench.scratch import scratch_folder
from kappamask_stream.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kappamask_stream.bench.types import EndToEndLevel
    from kappamask_stream.mask_options import Radiometry
    from kappamask_stream.models import ModelChoice
    from kappamask_stream.settings import Settings


async def measure_end_to_end(
    products: Sequence[str],
    choice: ModelChoice,
    settings: Settings,
    *,
    least: int,
    duration_s: float,
    radiometry: Radiometry,
    on_progress: Callable[[str], None] = lambda _: None,
) -> EndToEndLevel:
    """Mask products, in turn and again, until there are `least` and `duration_s` are over; what is in work is finished.

    All of it in a process of its own, `products_at_once` of the settings at a time. The first product is masked once
    before, which warms up server and client. Masks go to a temporary folder, and are written like any.

    What the statistics extension tells (`queue_s`, `compute_s`, `batch_sizes`, `server_busy`) is of all clients that
    the server has meanwhile: where there was another one, it is None, and `untold` says so.

    Parameters
    ----------
    products : paths or URLs, of one level.
    settings : as for a run; those for several processes are passed over.

    Raises
    ------
    KappaMaskError
        Of the first product that fails, as for a run; `ProductError` where one holds no data.
    ProcessEndedError
        If the process was killed.
    UsageError
        If there is nothing to measure, or products are of different levels.
    """
    if not products:
        raise UsageError("there is no product to measure with: name one")
    if least < 1 or not duration_s >= 0:
        raise UsageError(
            f"at least {least} products in {duration_s:g} s were asked for: give 1 or more, and 0 s or more"
        )
    with scratch_folder() as folder:
        work = MaskMany(
            products=tuple(products),
            choice=choice,
            settings=settings,
            radiometry=radiometry,
            folder=folder,
            least=least,
            duration_s=duration_s,
        )
        return (await in_child(work, on_progress)).result
