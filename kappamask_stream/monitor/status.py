"""The status as JSON, for the page and for whoever wants to read it. Pure, but for the clock.

docs/monitoring.md describes the fields.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kappamask_stream import __version__
from kappamask_stream.monitor.board import now_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.monitor.board import Board, Result, Running
    from kappamask_stream.worker.types import WorkerState

_WINDOWS_S = {"last_5_min": 300.0, "last_60_min": 3600.0}


def status(board: Board, ready: Mapping[str, str | None], *, name: str, model: str) -> dict[str, Any]:
    """Return all that the page shows.

    Parameters
    ----------
    ready : as the probe said last; empty before it has.
    name : of the worker, for people.
    """
    now = time.monotonic()
    return {
        "name": name,
        "model": model,
        "version": __version__,
        "now": now_text(),
        "uptime_s": round(now - board.started, 1),
        "worker": _worker(board, now),
        "ready": dict(ready),
        "totals": {
            "messages": dict(board.messages),
            "products": dict(board.products),
            "retries": dict(board.retries),
        },
        "throughput": {
            **{window: _rounded(asdict(board.throughput.rate(now, s))) for window, s in _WINDOWS_S.items()},
            "minutes": [
                {"products": products, "megapixels": round(megapixels, 2)}
                for products, megapixels in board.throughput.minutes(now)
            ],
        },
        "running": [_running(board, running, now) for running in board.running.values()],
        "results": [_result(board, result) for result in board.results],
        "failures": [{"id": f.number, **{k: v for k, v in asdict(f).items() if k != "number"}} for f in board.failures],
    }


def _worker(board: Board, now: float) -> dict[str, Any]:
    state: WorkerState = board.state
    return {
        "phase": state.phase,
        "reason": None if state.reason is None else board.shown(state.reason),
        "slots": state.slots,
        "busy": state.busy,
        "pending": state.pending,
        "queue_waiting": state.queue_waiting,
        "queue_in_work": state.queue_in_work,
        "queue_age_s": state.queue_age_s,
        "told_s_ago": None if board.told_at is None else round(now - board.told_at, 1),
    }


def _running(board: Board, running: Running, now: float) -> dict[str, Any]:
    job, progress = running.job, running.job.progress
    left = progress.seconds_left
    return {
        "id": job.id,
        "product": job.ref.name.text,
        "message": job.message.id,
        "received": job.message.received,
        "state": progress.state,
        "seconds": round(now - job.started, 1),
        "seconds_left": None if left is None or progress.state != "streaming" else round(left),
        "megapixels_per_s": round(progress.megapixels_per_s, 2) if progress.state == "streaming" else None,
        "tiles": {
            "total": progress.tiles_total,
            "read": progress.tiles_read,
            "in_flight": progress.tiles_in_flight,
            "done": progress.tiles_done,
        },
        "note": None if progress.note is None else board.shown(progress.note),
        "grid": None if running.tiles is None else running.tiles.to_json(progress.tiles_read),
    }


def _result(board: Board, result: Result) -> dict[str, Any]:
    return {
        "id": result.number,
        "product": result.product,
        "message": result.message,
        "status": result.status,
        "at": result.at,
        "seconds": round(result.seconds, 1),
        "output": result.output,
        "tiles": result.tiles,
        "retries": result.retries,
        "classes": [{"name": n, "colour": c, "share": round(share, 4)} for n, c, share in result.shares],
        "quicklook": f"quicklooks/{result.number}.png" if result.number in board.quicklooks else None,
    }


def _rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in numbers.items()}
