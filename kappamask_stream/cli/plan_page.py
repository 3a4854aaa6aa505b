"""A plan for people and for programs."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kappamask_stream.capacity import CapacityPlan, Cost
    from kappamask_stream.capacity.load import Flow, Processes, Resource

_NAMES = {"gpu": "GPUs", "worker_cores": "cores of workers", "server_cores": "cores of inference"}
_LIMITS = {
    "gpu": "the GPUs",
    "worker_cores": "the cores of workers, which decode JPEG 2000",
    "server_cores": "the cores of inference",
}
_FLOWS = {
    "bytes_read": "read from the store",
    "requests": "requests to the store",
    "bytes_to_server": "to the inference server",
    "bytes_from_server": "from it",
    "bytes_written": "masks written",
}
_PRICED = {
    "gpu_hour": "GPU hours",
    "core_hour": "core hours",
    "gb_in": "GB read",
    "gb_egress": "GB of masks leaving",
    "gb_month": "GB months of masks kept",
    "thousand_requests": "thousand requests",
}


def document(plan: CapacityPlan, cost: Cost) -> dict[str, Any]:
    """Return a plan for programs (schema ``kappamask-stream/plan``, version 1), nothing rounded."""
    load = plan.load
    return {
        "schema": "kappamask-stream/plan",
        "version": 1,
        "load": {
            "products_per_day": float(load.products_per_day),
            "peak_factor": float(load.peak_factor),
            "utilisation": float(load.utilisation),
        },
        "network": str(plan.figures.network),
        "gpu_name": plan.figures.gpu if plan.servers is None else None,
        "figures": {n: {"value": float(f.value), "source": f.source} for n, f in plan.figures.figures().items()},
        "tiles_per_product": float(plan.tiles),
        "workers": {**_resource(plan.worker), **_processes(plan.workers)},
        "server": {**_resource(plan.server), **(_processes(plan.servers) if plan.servers else {})},
        "flows": {name: _flow(flow) for name, flow in plan.flows.items()},
        "enough_for_products_per_day": float(plan.enough_for),
        "worker_cores_per_server": float(plan.worker_cores_per_server),
        "worker_seconds_per_product": float(plan.worker_seconds),
        "catch_up_hours": None if plan.catch_up_hours is None else float(plan.catch_up_hours),
        "cost": {
            "per_day": {line.name: float(line.cost_per_day) for line in cost.lines},
            "units_per_day": {line.name: float(line.per_day) for line in cost.lines},
            "total_per_day": float(cost.per_day) if cost.lines else None,
            "total_per_product": float(cost.per_product) if cost.lines else None,
            "without_price": list(cost.without_price),
        },
    }


def _resource(resource: Resource) -> dict[str, Any]:
    return {
        "resource": resource.name,
        "seconds_per_product": float(resource.seconds),
        "busy_mean": float(resource.mean),
        "busy_peak": float(resource.peak),
        "provided": resource.provided,
        "enough_for_products_per_day": float(resource.enough_for),
    }


def _processes(processes: Processes) -> dict[str, Any]:
    memory = processes.memory_bytes
    return {
        "processes": processes.count,
        "cores_each": processes.cores,
        "memory_bytes": None if memory is None else float(memory),
    }


def _flow(flow: Flow) -> dict[str, float]:
    return {
        "per_product": float(flow.per_product),
        "per_day": float(flow.per_day),
        "mean_per_s": float(flow.mean_per_s),
        "peak_per_s": float(flow.peak_per_s),
    }


def page(plan: CapacityPlan, cost: Cost) -> str:
    """Lay a plan out for people."""
    parts = (_heading(plan), _machines(plan), _moved(plan), _said(plan), _cost(cost), _sources(plan))
    return "\n\n".join("\n".join(part) for part in parts if part)


def _heading(plan: CapacityPlan) -> list[str]:
    load = plan.load
    tiles = plan.figures.tiles
    of = "" if tiles is None else f" of {_number(tiles.value)}"
    on = "without a GPU" if plan.servers else f"on {plan.figures.gpu or 'GPUs'}"
    products, times, busy = _number(load.products_per_day), _number(load.peak_factor), _percent(load.utilisation)
    return [
        f"{products} products a day, {times} times as many in the busiest hours; machines then at most {busy} busy",
        f"{plan.figures.network}, {on}; {_number(plan.tiles)}{of} tiles of a product hold data",
    ]


def _machines(plan: CapacityPlan) -> list[str]:
    lines = [f"{'':<24}{'a product':>10}{'needed, mean':>14}{'peak':>8}{'provided':>10}{'busy':>10}{'enough for':>12}"]
    for resource in (plan.server, plan.worker):
        busy = f"{_percent(resource.mean / resource.provided)}, {_percent(resource.peak / resource.provided)}"
        lines.append(
            f"{_NAMES[resource.name]:<24}{_number(resource.seconds) + ' s':>10}{_number(resource.mean):>14}"
            f"{_number(resource.peak):>8}{resource.provided:>10}{busy:>10}{_number(resource.enough_for):>12}"
        )
    if plan.servers is not None:
        lines.append(f"{'servers':<24}{plan.servers.count:>42}  {_each(plan.servers)}")
    lines.append(f"{'workers':<24}{plan.workers.count:>42}  {_each(plan.workers)}")
    return lines


def _each(processes: Processes) -> str:
    cores = f"of {processes.cores} core{'' if processes.cores == 1 else 's'}"
    if processes.memory_bytes is None or processes.rss_bytes is None:
        return f"{cores}; no file tells their memory"
    return f"{cores}, {_bytes(processes.rss_bytes)} each, {_bytes(processes.memory_bytes)} in all"


def _moved(plan: CapacityPlan) -> list[str]:
    lines = [f"{'':<24}{'a product':>10}{'a day':>14}{'mean':>14}{'peak':>14}"]
    for name, flow in plan.flows.items():
        size, rate = (_number, _per_second) if name == "requests" else (_bytes, _bits)
        lines.append(
            f"{_FLOWS[name]:<24}{size(flow.per_product):>10}{size(flow.per_day):>14}{rate(flow.mean_per_s):>14}"
            f"{rate(flow.peak_per_s):>14}"
        )
    return lines


def _said(plan: CapacityPlan) -> list[str]:
    least = min((plan.worker, plan.server), key=lambda resource: resource.enough_for)
    catch_up = plan.catch_up_hours
    cores, one = _number(plan.worker_cores_per_server), "GPU" if plan.servers is None else "core of inference"
    lines = [
        f"Enough for {_number(plan.enough_for)} products a day; what limits are {_LIMITS[least.name]}.",
        f"{cores} cores of workers keep one {one} busy; a worker needs {_number(plan.worker_seconds)} s for a product.",
        "What piles up in a day without machines is never worked off: no time is left."
        if catch_up is None
        else f"What piles up in a day without machines is worked off in {_number(catch_up)} h, beside what comes then.",
    ]
    if plan.servers is None:
        lines.append("Not in these files: the cores and the memory that the GPUs' own machines need.")
    return lines


def _cost(cost: Cost) -> list[str]:
    if not cost.lines:
        return ["No cost: no price was given (--price-core-hour, --price-gb-in and others)."]
    lines = [f"{'cost':<26}{'units a day':>14}{'price':>12}{'a day':>12}{'a product':>14}"]
    lines += [
        f"{_PRICED[line.name]:<26}{_number(line.per_day):>14}{_number(line.price):>12}"
        f"{_money(line.cost_per_day):>12}{_small(line.cost_per_day / cost.products_per_day):>14}"
        for line in cost.lines
    ]
    lines.append(f"{'sum':<26}{'':>14}{'':>12}{_money(cost.per_day):>12}{_small(cost.per_product):>14}")
    if cost.without_price:
        flags = ", ".join(f"--price-{name.replace('_', '-')}" for name in cost.without_price)
        lines.append(f"Not in the sum, for want of a price: {flags}")
    return lines


def _sources(plan: CapacityPlan) -> list[str]:
    used = plan.figures.figures()
    return ["figures", *(f"  {name:<18}{_number(figure.value):>16}  {figure.source}" for name, figure in used.items())]


def _number(value: Fraction | int) -> str:
    """Three digits, or all before the point; groups of three."""
    number = float(value)
    if number >= 100 or number == int(number):  # noqa: PLR2004 - digits
        return f"{number:,.0f}"
    return f"{number:.3g}"


def _percent(value: Fraction) -> str:
    return f"{float(value):.0%}" if value == 0 or value >= Fraction(1, 100) else f"{float(value):.2%}"


def _bytes(value: Fraction) -> str:
    number = float(value)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:  # noqa: PLR2004 - SI
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


def _bits(bytes_per_s: Fraction) -> str:
    number = float(bytes_per_s) * 8
    for unit in ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"):
        if number < 1000:  # noqa: PLR2004 - SI
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} Tbit/s"


def _per_second(value: Fraction) -> str:
    return f"{_number(value)}/s"


def _money(value: Fraction) -> str:
    return f"{float(value):,.2f}"


def _small(value: Fraction) -> str:
    return f"{float(value):.3g}"
