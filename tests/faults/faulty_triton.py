"""A real Triton with the null model, whose backend fails as a file says: for answers that a real server gives."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.stream.polling import until

if TYPE_CHECKING:
    from pathlib import Path

#: Follows the backend's own code. ``fault`` beside the model's versions says what becomes of which tile, counted from
#: the time when the file came: Python, with ``n`` (the tile's number) and ``answer`` (tensors by name).
_BACKEND = """

_Sound = TritonPythonModel


class TritonPythonModel(_Sound):
    def initialize(self, args):
        super().initialize(args)
        self.file = Path(args["model_repository"]) / "fault"
        self.code, self.count = "", 0

    def execute(self, requests):
        code = self.file.read_text() if self.file.exists() else ""
        if code != self.code:
            self.code, self.count = code, 0
        return [self.disturbed(response) for response in super().execute(requests)]

    def disturbed(self, response):
        self.count += 1
        if not self.code:
            return response
        scope = {"n": self.count, "np": np, "answer": {t.name(): t.as_numpy() for t in response.output_tensors()}}
        try:
            exec(self.code, scope)
        except Exception as error:
            with self.file.with_name("injected").open("a") as record:
                record.write(f"{error}\\n")
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        tensors = [pb_utils.Tensor(name, array) for name, array in scope["answer"].items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)
"""


class FaultyModel:
    """A repository with the null model and a backend that can be told to fail.

    Parameters
    ----------
    repository : folder to make.
    source : repository with the null model.
    changes : texts of the configuration, and what stands in their place.
    """

    def __init__(self, repository: Path, source: Path, *changes: tuple[str, str]) -> None:
        self.repository, self._model = repository, repository / "null_l2a"
        shutil.copytree(source / "null_l2a", self._model)
        config = self._model / "config.pbtxt"
        text = config.read_text()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        config.write_text(text)
        backend = self._model / "1" / "model.py"
        backend.write_text(backend.read_text() + _BACKEND)

    def fail(self, code: str) -> None:
        """Have answers given from now on be changed by code, or be errors where it raises."""
        (self._model / "injected").unlink(missing_ok=True)
        file = self._model / "fault.new"
        file.write_text(code)
        file.rename(self._model / "fault")

    def recover(self) -> None:
        """Have answers be right from now on."""
        (self._model / "fault").unlink(missing_ok=True)

    @property
    def injected(self) -> list[str]:
        """Messages of the errors that were raised since the last `fail`."""
        file = self._model / "injected"
        return file.read_text().splitlines() if file.exists() else []


class Waiting:
    """Has a model wait with tiles until told: all that come after the first few."""

    def __init__(self, model: FaultyModel, after: int) -> None:
        self._model = model
        self._here, self._gate = model.repository / "here", model.repository / "gate"
        self._gate.touch()
        self._here.unlink(missing_ok=True)
        model.fail(
            f"import os, pathlib, time\nif n > {after}:\n"
            f"    pathlib.Path({str(self._here)!r}).touch()\n"
            f"    while os.path.exists({str(self._gate)!r}): time.sleep(0.005)"
        )

    async def come(self) -> None:
        """Return when a tile waits."""
        await until(self._here.exists)

    def end(self) -> None:
        """Work on."""
        self._model.recover()
        self._gate.unlink()
