"""`kappamask-stream worker` as people start it, on a queue and stores over sockets, and what it leaves there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import threading
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import rasterio

from tests.integration.local_state import CLI, PATIENCE_S, wait_until

if TYPE_CHECKING:
    import signal
    from pathlib import Path

    from tests.integration.queue_servers import ServedQueue
    from tests.integration.s3_servers import MotoStore

PRODUCTS, MASKS = "wproducts", "wmasks"


def safe_objects(product: Path) -> dict[str, bytes]:
    """Return a SAFE directory's files by key."""
    return {
        path.relative_to(product.parent).as_posix(): path.read_bytes() for path in product.rglob("*") if path.is_file()
    }


class WorkerProcess:
    """A worker. Use as a context manager: leaving it kills one that still runs.

    Attributes
    ----------
    lines : of its log, as objects.
    """

    def __init__(self, *arguments: str, settings: dict[str, str] | None = None) -> None:
        variables = {f"KAPPAMASK_{name.upper()}": value for name, value in (settings or {}).items()}
        self.process = subprocess.Popen(
            [str(CLI), "worker", "--no-spot", "--log-format", "json", *arguments],
            env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines: list[dict[str, Any]] = []
        self.other: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.other.append(line)

    def said(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """Return the lines of an event with these fields."""
        return [
            line
            for line in list(self.lines)
            if line["event"] == event and all(line.get(name) == value for name, value in fields.items())
        ]

    def wait_for(self, event: str, count: int = 1, **fields: object) -> list[dict[str, Any]]:
        """Wait until it has said something so often."""

        def is_said() -> bool:
            assert self.process.poll() is None or len(self.said(event, **fields)) >= count, f"ended: {self.log}"
            return len(self.said(event, **fields)) >= count

        wait_until(is_said, f"{event} {fields}")
        return self.said(event, **fields)

    @property
    def log(self) -> str:
        return "\n".join([*map(str, self.lines), *self.other])

    def send(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        return code


@dataclass(frozen=True)
class Outputs:
    """Masks in a bucket."""

    store: MotoStore
    prefix: str

    def listed(self) -> list[str]:
        listing = ET.fromstring(self.store.content(MASKS, ""))
        keys = [key.text or "" for key in listing.iter("{http://s3.amazonaws.com/doc/2006-03-01/}Key")]
        return sorted(key for key in keys if key.startswith(f"{self.prefix}/"))

    def masks(self, name: str) -> list[str]:
        """Keys of a product's masks, of which there must be one."""
        return [key for key in self.listed() if key.endswith(".tif") and f"/{name}/" in key]

    def is_whole(self, name: str) -> bool:
        """Tell whether a product's mask can be read to its last pixel, and its Item is there and stands for it."""
        (mask,) = self.masks(name)
        with rasterio.open(io.BytesIO(self.store.content(MASKS, mask))) as file:
            pixels = file.read(1)
        item = json.loads(self.store.content(MASKS, f"{mask.removesuffix('.tif')}.json"))
        return bool(np.isin(pixels, (1, 4, 5)).all()) and item["properties"]["s2:product_uri"] == f"{name}.SAFE"


def settled(queue: ServedQueue) -> None:
    """Wait until no message of a queue is left, neither waiting nor in work."""
    wait_until(lambda: queue.counts() == (0, 0), f"{queue.url} is empty")
