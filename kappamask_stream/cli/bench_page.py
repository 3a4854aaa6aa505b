"""A benchmark for people: a table for each level, floors and ratios beside what was measured, the verdict last."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from kappamask_stream.bench.facts import Facts, mean_batch
from kappamask_stream.bench.wording import bits_per_s, counted, data, duration, number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kappamask_stream.bench.types import BenchReport, ClientLevel, EndToEndLevel, GpuUse, ServerLevel, ServerPoint

WIDTH = 100
#: Of the names of rows.
_NAME = 34
_NONE = "-"


def page(report: BenchReport) -> str:
    """Lay a report out, at most 100 columns wide."""
    facts = Facts(report=report)
    parts = [_heading(report)]
    if report.server is not None:
        parts.append(_server(report.server, facts))
    if report.client is not None:
        parts.append(_client(report.client, facts))
    if report.end_to_end is not None:
        parts.append(_end_to_end(report.end_to_end, facts))
    if report.notes:
        parts.append([line for note in report.notes for line in _wrapped(f"note: {note}")])
    if report.verdict is not None:
        parts.append(_wrapped(report.verdict.text))
    return "\n\n".join("\n".join(part) for part in parts)


def _heading(report: BenchReport) -> list[str]:
    machine, versions = report.environment, report.environment.versions
    memory = "" if machine.memory_bytes is None else f", {data(machine.memory_bytes)}"
    where = "on this machine" if report.local_server else "elsewhere"
    lines = [
        report.model,
        f"{report.product}: {report.product_tiles_inferred} of {counted(report.product_tiles, 'tile')} hold data",
        f"{machine.cpu or 'unknown processor'}, {counted(machine.cores, 'core')}{memory}; {machine.system}",
        f"server {where}: {machine.gpu or _server_gpu(report)}",
        f"commit {machine.commit or 'unknown'}, {machine.time}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return [part for line in lines for part in _wrapped(line)]


def _server_gpu(report: BenchReport) -> str:
    if Facts(report=report).has_gpu:
        return "a GPU whose name it does not tell"
    return "no GPU" if report.local_server else "whether it has a GPU is unknown"


def _server(level: ServerLevel, facts: Facts) -> list[str]:
    sizes = f"{data(level.request_bytes)} to it and {data(level.answer_bytes)} back for a tile"
    latency, served = f"{'p50':>7}{'p95':>7}{'p99':>7}", f"{'queue':>8}{'in':>6}{'compute':>9}{'out':>6}"
    lines = [
        f"SERVER alone, over {level.transport}: {sizes}",
        f"{'in':>6}{'':>9}{'latency, ms':>21}{'':>8}{'of it in the server, ms':>29}{'client, CPU':>14}",
        f"{'flight':>6}{'tiles/s':>9}{latency}{'batch':>8}{served}{'ms a tile':>14}",
    ]
    lines += [_point(point) + (" *" if point is facts.best else "") for point in level.points]
    if level.broken_off is not None:
        lines += _wrapped(f"broke off: {level.broken_off}")
    lines += _gpu_lines(level.points, facts)
    best = facts.best
    if best is not None and facts.reached_products_per_s is not None:
        lines.append(f"* {number(3600 * facts.reached_products_per_s)} products an hour, if the client keeps up")
    reasons = dict.fromkeys(point.untold for point in level.points if point.untold)
    for text in (
        *(f"not told: {reason}" for reason in reasons),
        *(f"failed: {text}" for text in level.failures if text != level.broken_off),
    ):
        lines += _wrapped(text)
    return lines


def _point(point: ServerPoint) -> str:
    batch = mean_batch(point.batch_sizes)
    cpu = 1000 * point.client_cpu_s / point.tiles if point.tiles else None
    latency = point.latency
    return (
        f"{point.concurrency:>6}{number(point.tiles_per_s):>9}{_ms(latency.p50_s):>7}{_ms(latency.p95_s):>7}"
        f"{_ms(latency.p99_s):>7}{_or_none(batch):>8}{_ms(point.queue_s):>8}{_ms(point.input_s):>6}"
        f"{_ms(point.compute_s):>9}{_ms(point.output_s):>6}{_NONE if cpu is None else _short(cpu):>14}"
    )


def _gpu_lines(points: Sequence[ServerPoint], facts: Facts) -> list[str]:
    """Say what the GPU did, point by point; nothing without one."""
    if not any(point.gpu for point in points):
        return []
    lines = [f"{'flight':>6}{'GPUs':>9}{'busy':>8}{'memory':>11}{'power':>9}{'energy a product':>18}"]
    lines += [f"{point.concurrency:>6}{_gpu(point.gpu, _per_product(point, facts))}" for point in points if point.gpu]
    return lines


def _per_product(point: ServerPoint, facts: Facts) -> float | None:
    if point.gpu is None or point.gpu.energy_j is None or not point.tiles:
        return None
    return point.gpu.energy_j / point.tiles * facts.report.product_tiles_inferred


def _gpu(gpu: GpuUse, energy_j: float | None) -> str:
    busy = _NONE if gpu.utilisation is None else percent(gpu.utilisation)
    memory = _NONE if gpu.memory_bytes is None else data(gpu.memory_bytes)
    power = _NONE if gpu.power_w is None else f"{number(gpu.power_w)} W"
    gpus = f"{gpu.gpus}" if gpu.gpus_named in (None, gpu.gpus) else f"{gpu.gpus} of {gpu.gpus_named}"
    return f"{gpus:>9}{busy:>8}{memory:>11}{power:>9}{_NONE if energy_j is None else number(energy_j) + ' J':>18}"


def _client(level: ClientLevel, facts: Facts) -> list[str]:
    floor, begun = level.floor, level.cpu_s - level.start_cpu_s
    ratio, of_begun = ("", "") if facts.decodes_on_gpu else (f"{level.cpu_to_floor:.2f}", f"{begun / floor.cpu_s:.2f}")
    lines = [
        "CLIENT alone, one product in a process of its own, the network answers at once",
        _row("", "measured", "decode floor", "ratio"),
        _row("CPU of a product", f"{number(level.cpu_s)} s", f"{number(floor.cpu_s)} s", ratio),
        _row("  without the process's start", f"{number(begun)} s", "", of_begun),
        _row(
            "wall time",
            f"{number(level.wall_s)} s",
            f"{number(floor.wall_s)} s",
            f"{level.wall_s / floor.wall_s:.2f}",
        ),
        _row(
            "decoded",
            f"{number(level.megapixels_per_s)} Mpx/s",
            f"{number(floor.megapixels / floor.wall_s)} Mpx/s",
            f"{level.megapixels_per_s * floor.wall_s / floor.megapixels:.2f}" if floor.megapixels else "",
        ),
        _row("peak memory", _NONE if level.peak_rss_bytes is None else data(level.peak_rss_bytes), "", ""),
        _row(
            "event loop late, p50, p99, most",
            f"{_ms(level.lag_p50_s)}, {_ms(level.lag_p99_s)}, {_ms(level.lag_max_s)} ms",
            "",
            "",
        ),
    ]
    lines += _wrapped(
        f"The floor decodes {counted(floor.codestream_tiles, 'codestream tile')} ({number(floor.megapixels)} Mpx) once "
        f"with {counted(floor.threads, 'thread')}. {duration(level.start_cpu_s)} of the CPU time are the process's "
        f"start; {data(level.budget_bytes)} of pixels may be held."
    )
    lines += _wrapped(_stages(level.stages, 1))
    if facts.client_s is None:
        return lines
    hour = f"{counted(facts.cores, 'core')} are enough for {number(3600 / facts.client_s)} products an hour"
    return [*lines, *_wrapped(hour)]


def _end_to_end(level: EndToEndLevel, facts: Facts) -> list[str]:
    many = f"{counted(level.products, 'product')}, {level.products_at_once} at once"
    lines = [f"END TO END, {many}, {duration(level.wall_s)} in all", _row("", "measured", "floor", "ratio")]
    wall, floor = facts.wall_s or 0.0, facts.floor_s
    hour = _NONE if floor is None else number(3600 / floor)
    ratio = _NONE if floor is None else f"{wall / floor:.2f}"
    lines += [
        _row("products an hour", number(level.products_per_hour), hour, ""),
        _row("wall time of a product", duration(wall), _NONE if floor is None else duration(floor), ratio),
    ]
    for name, seconds in (("  of it decoding", facts.decode_floor_s), ("  of it the server", facts.server_floor_s)):
        if seconds is not None:
            lines.append(_row(name, "", duration(seconds), f"{wall / seconds:.2f}"))
    cpu = level.client_cpu_s / level.products
    least = None if facts.report.client is None else facts.report.client.floor.cpu_s
    lines.append(
        _row("CPU of a product, client", f"{number(cpu)} s", "", "")
        if least is None
        else _row("CPU of a product, client", f"{number(cpu)} s", f"{number(least)} s", f"{cpu / least:.2f}")
    )
    lines += [
        _row(name, said, "", "") for name, said in (*_cores(level, facts), *_requests(level, facts)) if said is not None
    ]
    lines += _wrapped(_stages(level.stages, level.products))
    return lines


def _cores(level: EndToEndLevel, facts: Facts) -> list[tuple[str, str | None]]:
    server = None if facts.server_cpu_s is None else f"{number(facts.server_cpu_s)} s"
    busy = None if facts.cores_busy is None else f"{percent(facts.cores_busy)} of {level.cores}"
    return [
        ("CPU of a product, server", server),
        ("cores busy", busy),
        ("peak memory", None if level.peak_rss_bytes is None else data(level.peak_rss_bytes)),
        ("event loop late, p99", f"{_ms(level.lag_p99_s)} ms"),
        ("last answer to closed files", duration(level.write_s / level.products)),
    ]


def _requests(level: EndToEndLevel, facts: Facts) -> list[tuple[str, str | None]]:
    batch = mean_batch(level.batch_sizes)
    rate, sent = facts.tiles_per_s, facts.report.server
    gpu = level.gpu
    told = level.queue_s is not None and level.compute_s is not None
    return [
        ("tiles/s", None if not rate else f"{number(rate)}{_of_best(facts)}"),
        ("requests in flight, mean", f"{number(level.mean_in_flight)} of {level.window}"),
        ("queue, compute of a request", f"{_ms(level.queue_s)}, {_ms(level.compute_s)} ms" if told else None),
        ("tiles in a batch, mean", None if batch is None else number(batch)),
        ("sent to the server", bits_per_s(rate * sent.request_bytes) if rate and sent is not None else None),
        ("server busy", None if level.server_busy is None else percent(level.server_busy)),
        ("GPU busy", None if gpu is None or gpu.utilisation is None else percent(gpu.utilisation)),
        ("GPU memory", None if gpu is None or gpu.memory_bytes is None else data(gpu.memory_bytes)),
        ("GPU power", None if gpu is None or gpu.power_w is None else f"{number(gpu.power_w)} W"),
        (
            "GPU energy a product",
            None if gpu is None or gpu.energy_j is None else f"{number(gpu.energy_j / level.products)} J",
        ),
    ]


def _of_best(facts: Facts) -> str:
    return "" if facts.server_used is None else f", {percent(facts.server_used)} of the server's best"


def _stages(stages: Mapping[str, float], products: int) -> str:
    """Say where the time goes, stage by stage."""
    said = ", ".join(f"{name} {_short(seconds / products)}" for name, seconds in stages.items())
    return f"Seconds busy a product, summed over threads and requests: {said}."


def _row(name: str, measured: str, floor: str, ratio: str) -> str:
    return f"{name:<{_NAME}}{measured:>26}{floor:>18}{ratio:>10}".rstrip()


def _ms(seconds: float | None) -> str:
    return _NONE if seconds is None else _short(1000 * seconds)


def _short(value: float) -> str:
    """Return at most two places behind the point, none where there are three before it."""
    for below, places in ((10, 2), (100, 1)):
        if value < below:
            return f"{value:.{places}f}"
    return number(value)


def _or_none(value: float | None) -> str:
    return _NONE if value is None else number(value)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), WIDTH, break_on_hyphens=False) or [""]
