"""Check a served model: each tile alone, then a batch of every size, against a reference and against itself.

The model is asked as clients ask it, through Triton: what is wrong with a backend, an engine or a batch shows here,
whatever the bare graph would say.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from kappamask_stream.canary import canary_tile, compare, has_known_answer, known_labels
from kappamask_stream.errors import (
    InferenceTimeoutError,
    ServerSetupError,
    ServerUnavailableError,
    error_kinds,
)
from server_models.access import Access, open_client
from server_models.canary_answer import batch_of
from server_models.check_figures import MAX_DIFFERING, Answers, BatchFigures, CheckReport, faults_of, measure, misfits
from server_models.tether import tethered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from server_models.check_tiles import CheckTiles

_TIMEOUT_S = 600.0
#: How far it is is said only where it takes so long that somebody may wonder.
_QUIET_S = 2.0
#: How errors of the way to the server, not of the model, are told apart.
_UNREACHABLE = ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED", "StatusCode.PERMISSION_DENIED")
_TOO_LATE = "StatusCode.DEADLINE_EXCEEDED"


@dataclass(kw_only=True)
class ModelCheck:
    """One check of one model.

    Parameters
    ----------
    endpoint : gRPC target of the server, e.g. ``127.0.0.1:8001``.
    contract : of the model.
    tiles : what is sent; their labels are the reference where they have any.
    graph : float32 graph for the reference where the tiles have no labels; None where there is none.
    say : told how far it is.
    access : what the server wants of its clients.
    """

    endpoint: str
    contract: ModelContract
    tiles: CheckTiles
    graph: Path | None
    say: Callable[[str], None]
    access: Access = field(default_factory=Access)
    _faults: list[str] = field(default_factory=list)
    _batches: list[BatchFigures] = field(default_factory=list)
    _canary: float | None = None

    def run(self) -> CheckReport:
        """Send everything and compare.

        Raises
        ------
        ServerUnavailableError, InferenceTimeoutError
            If the server is not there, or does not answer in time: nothing is known then.
        ServerSetupError
            If the reference cannot be computed.
        """
        started = self._said = time.monotonic()
        compared_with = self._compared_with()
        with contextlib.closing(open_client(self.endpoint, self.access)) as self._client:
            try:
                self._ask_all()
                self._ask_canary()
            except _MisfitError as misfit:
                self._faults.append(str(misfit))
        return CheckReport(
            model=self.contract.name,
            tiles=len(self.tiles),
            source=self.tiles.source,
            reference=compared_with,
            min_agreement=self.contract.min_agreement,
            max_differing=MAX_DIFFERING,
            batches=tuple(self._batches),
            faults=(*self._faults, *faults_of(self._batches, self.contract.min_agreement, compared_with)),
            seconds=time.monotonic() - started,
            canary=self._canary,
            has_canary=has_known_answer(self.contract),
        )

    def _compared_with(self) -> str | None:
        if self.tiles.labels is not None:
            return "the file's LABELS"
        return None if self.graph is None else "float32 (onnxruntime on this CPU)"

    def _ask_all(self) -> None:
        """Ask for every batch size; the reference is computed while the single tiles are answered."""
        largest = self.contract.max_batch
        with self._reference() as reference:
            started = time.monotonic()
            single = [
                self._ask(1, {n: a[i : i + 1] for n, a in self.tiles.tensors.items()}) for i in range(len(self.tiles))
            ]
            seconds = time.monotonic() - started
            alone = Answers(
                labels=np.concatenate([answer.labels for answer in single]),
                probabilities=np.concatenate([answer.probabilities for answer in single]),
            )
            right = reference()
        self._batches.append(measure(alone, batch=1, alone=None, reference=right, seconds=seconds))
        for batch in range(2, largest + 1):
            self._tell(f"batch {batch} of {largest}")
            chosen, tensors = self.tiles.batch(batch)
            started = time.monotonic()
            answers = self._ask(batch, tensors)
            seconds = time.monotonic() - started
            same = Answers(labels=alone.labels[chosen], probabilities=alone.probabilities[chosen])
            known = None if right is None else right[chosen]
            self._batches.append(measure(answers, batch=batch, alone=same, reference=known, seconds=seconds))

    def _ask_canary(self) -> None:
        """Ask for the tile whose answer the contract knows, as clients do."""
        known = known_labels(self.contract)
        if known is None:
            return
        found = compare(self.contract, self._ask(1, batch_of(canary_tile(self.contract))).labels[0], known)
        self._canary = found.agreement
        if not found.is_right:
            self._faults.append(f"the canary is answered wrongly: {found}")

    def _tell(self, text: str) -> None:
        if time.monotonic() - self._said > _QUIET_S:
            self._said = time.monotonic()
            self.say(text)

    def _ask(self, batch: int, tensors: Mapping[str, NDArray[Any]]) -> Answers:
        """Send one request of `batch` tiles."""
        inputs = []
        for name, array in tensors.items():
            kind = "UINT16" if array.dtype == np.uint16 else "FP32"
            inputs.append(triton.InferInput(name, list(array.shape), kind).set_data_from_numpy(array))
        names = ("LABELS", "PROBABILITIES")
        try:
            answer = self._client.infer(
                self.contract.name,
                inputs,
                outputs=[triton.InferRequestedOutput(name) for name in names],
                client_timeout=_TIMEOUT_S,
            )
        except InferenceServerException as error:
            said = (error.message() or "no reason given").strip().splitlines()[0]
            if str(error.status()) == _TOO_LATE:
                raise InferenceTimeoutError(
                    f"{self.endpoint} did not answer a batch of {batch} within {_TIMEOUT_S:g} s"
                ) from error
            if str(error.status()) in _UNREACHABLE:
                raise ServerUnavailableError(f"the server at {self.endpoint} cannot be asked: {said}") from error
            raise _MisfitError(f"a batch of {batch} is not answered: {said}") from error
        labels, probabilities = (_array(answer, name) for name in names)
        fault = misfits(self.contract, batch, labels, probabilities)
        if fault is not None:
            raise _MisfitError(fault)
        assert labels is not None and probabilities is not None  # noqa: S101, PT018 - see `misfits`
        return Answers(labels=labels, probabilities=probabilities)

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Callable[[], NDArray[np.uint8] | None]]:
        """Begin to compute the reference; the value waits for it. It ends with the block."""
        if self.tiles.labels is not None or self.graph is None:
            yield lambda: self.tiles.labels
            return
        with tempfile.TemporaryDirectory(prefix="kappamask-check-") as folder:
            given, wanted, contract = (Path(folder) / n for n in ("tiles.npz", "labels.npy", "contract.json"))
            self.tiles.save(given)
            contract.write_text(self.contract.to_json())
            command = [sys.executable, "-I", "-m", "server_models", "reference", str(self.graph)]
            command += ["--contract", str(contract), "--tiles", str(given), "--labels", str(wanted)]
            with subprocess.Popen(
                tethered(command, signal.SIGKILL), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:

                def wait() -> NDArray[np.uint8]:
                    output, complaint = process.communicate()
                    if process.returncode:
                        raise _as_said(output, complaint)
                    labels: NDArray[np.uint8] = np.load(wanted)
                    return labels

                try:
                    yield wait
                finally:
                    process.kill()


class _MisfitError(Exception):
    """An answer that ends the check: there is nothing to compare."""


def _array(answer: Any, name: str) -> NDArray[Any] | None:
    try:
        found: NDArray[Any] | None = answer.as_numpy(name)
    except ValueError:  # fewer bytes than the shape says
        return None
    return found


def _as_said(output: str, complaint: str) -> Exception:
    """Turn what a process of ours printed into its error."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    event = json.loads(lines[-1]) if lines else {}
    message = event.get("message") or complaint.strip()[-500:] or "the reference was not computed, no reason given"
    return error_kinds().get(event.get("kind", ""), ServerSetupError)(message)
