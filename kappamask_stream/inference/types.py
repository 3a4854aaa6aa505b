"""What goes to a server and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

#: A lane on the server: what is interactive goes before all of the backlog that waits.
Priority = Literal["interactive", "backlog"]
#: Triton's numbers of the lanes; configurations that `models build` writes have these two.
LEVELS: Mapping[Priority, int] = {"interactive": 1, "backlog": 2}


@dataclass(frozen=True, kw_only=True)
class TileRequest:
    """One tile at native resolution.

    Attributes
    ----------
    name : how people find the tile in messages, e.g. ``tile row 3, column 7 of S2A_…``.
    tensors : per input tensor of the contract, uint16 ``[bands, height, width]``, DN.
    offset, scale : float32 ``[channels]``; the network sees ``max(DN + offset, 0) * scale``.
    probabilities : True asks for class probabilities beside the labels.
    urgent : True sends it in the interactive lane, whatever the client's. So goes a tile that was not answered in time
        before: a backlog would never end on a server that interactive clients keep busy.
    """

    name: str
    tensors: Mapping[str, NDArray[np.uint16]]
    offset: NDArray[np.float32]
    scale: NDArray[np.float32]
    probabilities: bool = False
    urgent: bool = False


@dataclass(frozen=True, kw_only=True)
class InferResult:
    """The answer for one tile.

    Attributes
    ----------
    labels : uint8 ``[tile, tile]``, class values of the contract.
    probabilities : uint8 ``[classes, tile, tile]``, 255 is 1.0, in the contract's order; None if not asked for.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.uint8] | None = None


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """How many batches of which size the server has formed since it was asked before.

    Attributes
    ----------
    counts : batch size -> number of executions; None where the server does not tell.
    reason : why not, in words; None where counts are known.
    """

    counts: Mapping[int, int] | None = None
    reason: str | None = None

    def since(self, earlier: BatchSizes) -> BatchSizes:
        """Return the executions between two snapshots."""
        if self.counts is None or earlier.counts is None:
            return BatchSizes(reason=self.reason or earlier.reason)
        delta = {size: n - earlier.counts.get(size, 0) for size, n in self.counts.items()}
        return BatchSizes(counts={size: n for size, n in sorted(delta.items()) if n > 0})

    @property
    def mean(self) -> float | None:
        """Tiles per execution, or None where nothing was executed or nothing is known."""
        if not self.counts:
            return None
        return sum(size * n for size, n in self.counts.items()) / sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class Transport:
    """How tiles travel to a server.

    Attributes
    ----------
    name : what they take; most of them, where shared memory has no room for all.
    reason : why not shared memory, in words; None where it is, or where that is not known yet.
    """

    name: Literal["gRPC", "shared memory"]
    reason: str | None = None


class InferenceClient(Protocol):
    """One model on one server (or several behind one name). Safe for concurrent calls on one event loop."""

    contract: ModelContract

    @property
    def priority(self) -> Priority | None:
        """Lane of its tiles; None: the model's default."""
        ...

    async def infer(self, request: TileRequest) -> InferResult:
        """Send one tile once.

        Raises
        ------
        ServerOverloadedError, ServerUnavailableError, InferenceTimeoutError
            Worth another try, each in its own way.
        ServerFaultError
            The server failed on this tile.
        InferenceError
            Its answer is unusable.
        ServerError
            The server refuses for good; as `ContractError` where the tile is not what the contract says.
        """
        ...

    async def is_ready(self) -> bool:
        """Tell whether the server answers and serves the model right now."""
        ...

    async def confirm(self) -> None:
        """Look whether the server still serves what the contract says, and answers rightly.

        Raises
        ------
        ContractError
            If it does not; with both sides.
        ServerError
            If nothing was learnt: nobody answers, or refuses.
        """
        ...

    async def batch_sizes(self) -> BatchSizes:
        """Take a snapshot of the server's count of executions by batch size; it counts them after it has answered."""
        ...

    async def aclose(self) -> None:
        """Give back connections."""
        ...
