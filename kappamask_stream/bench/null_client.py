"""A network that answers at once, inside the process: what is left is the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.inference import BatchSizes, InferResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference import TileRequest
    from kappamask_stream.inference.types import Priority

#: A class is a step of so many DN (2^10 = 1024: 0.1 of reflectance), over squares of so many pixels of the mask. So a
#: mask is compressed to about as many bytes as KappaMask's, its overviews included.
_STEP_BITS = 10
_SQUARE = 4


class NullClient:
    """`InferenceClient` without a server: classes follow from one band, for the price of looking them up.

    It is the first band of reflectances at the resolution nearest to the mask's; the classes that mean something take
    turns over its values. That is no cloud mask, but one as finely structured.
    """

    priority: Priority | None = None

    def __init__(self, contract: ModelContract) -> None:
        self.contract = contract
        group = min(contract.inputs, key=lambda g: (abs(g.gsd_m - contract.gsd_m), g.gsd_m))
        reflectances = [number for number, band in enumerate(group.bands) if band.startswith("B")]
        self._tensor, self._channel = group.tensor, reflectances[0] if reflectances else 0
        # The band's pixel that decides each square.
        self._at = np.arange(0, contract.tile_size, _SQUARE) * group.tile // contract.tile_size
        classes = [value for value in contract.probability_classes if value != contract.nodata_class]
        self._classes = np.resize(np.array(classes, np.uint8), 1 << (16 - _STEP_BITS))

    def __repr__(self) -> str:
        return f"<NullClient {self.contract.name}, {self._tensor}[{self._channel}]>"

    async def infer(self, request: TileRequest) -> InferResult:
        """See `InferenceClient.infer`; nothing is awaited, and nothing can fail."""
        size = self.contract.tile_size
        deciding = request.tensors[self._tensor][self._channel][self._at][:, self._at]
        squares = self._classes[deciding >> _STEP_BITS]
        labels = squares.repeat(_SQUARE, axis=0).repeat(_SQUARE, axis=1)[:size, :size]
        return InferResult(labels=labels, probabilities=self._certain(labels) if request.probabilities else None)

    async def is_ready(self) -> bool:
        """See `InferenceClient.is_ready`."""
        return True

    async def confirm(self) -> None:
        """See `InferenceClient.confirm`: it always holds."""

    async def batch_sizes(self) -> BatchSizes:
        """See `InferenceClient.batch_sizes`: there are no batches."""
        return BatchSizes(reason="there is no server")

    async def aclose(self) -> None:
        """See `InferenceClient.aclose`: there is nothing to give back."""

    def _certain(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        classes = np.array(self.contract.probability_classes, np.uint8)[:, np.newaxis, np.newaxis]
        return np.where(labels == classes, np.uint8(255), np.uint8(0))
