"""A real browser without a screen, driven over the DevTools protocol: input events, screenshots, console, requests."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--force-color-profile=srgb", "--remote-debugging-port=0",
)  # fmt: skip
_ANSWER_S = 60


class Page:
    """One tab. `messages` are what the console said, `requests` the addresses that were asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._socket = socket
        self._session: str | None = None
        self._next = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()

    async def listen(self) -> None:
        """Take what the browser says until it ends."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._note(said["method"], said["params"])

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded.set()
        elif event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.messages.append(str(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.messages.append(str(params["args"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser, and wait for its answer."""
        self._next += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._next] = answer
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send_json({"id": self._next, "method": method, "params": params, **session})
        async with asyncio.timeout(_ANSWER_S):
            said = await answer
        assert "error" not in said, f"{method}: {said['error']}"
        return said["result"]

    async def begin(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        self._session = (await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True))[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")

    async def open(
        self, place: Path | str, *, width: int, height: int, dark: bool = False, touch: bool = False
    ) -> None:
        """Show a file, or what a URL gives, in a window of this size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch
        )
        await self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = "dark" if dark else "light"
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._loaded.clear()
        await self.call("Page.navigate", url=place if isinstance(place, str) else place.absolute().as_uri())
        async with asyncio.timeout(_ANSWER_S):
            await self._loaded.wait()

    async def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        said = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def box(self, selector: str) -> dict[str, float]:
        """Return where an element is in the window, scrolled into view first."""
        return await self.run(
            f"(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView({{block: 'center'}});"
            "const b = e.getBoundingClientRect(); return {x: b.x, y: b.y, width: b.width, height: b.height}; })()"
        )

    async def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one point and release it at another."""
        (x, y), button = start, {"button": "left", "clickCount": 1}
        await self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **button)
        for step in range(1, 5):
            at = {"x": x + (end[0] - x) * step / 4, "y": y + (end[1] - y) * step / 4}
            await self.call("Input.dispatchMouseEvent", type="mouseMoved", buttons=1, **at, **button)
        await self.call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], **button)

    async def swipe(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Move a finger from one point to another."""
        await self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": start[0], "y": start[1]}])
        for step in range(1, 5):
            point = {"x": start[0] + (end[0] - start[0]) * step / 4, "y": start[1] + (end[1] - start[1]) * step / 4}
            await self.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[point])
        await self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    async def press(self, key: str, code: int) -> None:
        """Press and release a key on what has the focus."""
        for kind in ("rawKeyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    async def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write what is seen, or the whole page, as a PNG."""
        taken = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))


def find_chromium() -> str:
    """Return the browser; skips the test where there is none."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed")
    return found


@asynccontextmanager
async def open_page(profile: Path) -> AsyncIterator[Page]:
    """Start a browser with a profile of its own and give its one tab; nothing of it is left afterwards."""
    process = await asyncio.create_subprocess_exec(
        find_chromium(), *_FLAGS, f"--user-data-dir={profile}",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(_ANSWER_S):
            address = await _address(process.stderr)
        emptying = asyncio.create_task(_empty(process.stderr))  # a full pipe would stop the browser
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            page = Page(socket)
            listening = asyncio.create_task(page.listen())
            await page.begin()
            yield page
            await socket.close()
            await listening
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    await emptying


async def _address(stderr: asyncio.StreamReader) -> str:
    while line := await stderr.readline():
        if b"DevTools listening on " in line:
            return line.decode().partition("DevTools listening on ")[2].strip()
    raise AssertionError("the browser ended before it could be talked to")


async def _empty(stderr: asyncio.StreamReader) -> None:
    while await stderr.read(65536):
        pass
