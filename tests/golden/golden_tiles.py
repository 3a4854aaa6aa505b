"""Golden tiles: pixels of a product, what km_predict's networks saw of them, and what they answered.

File names have the column first: tile ``8_7`` is column 8, row 7 of the tile grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask_stream.inference import TileRequest
from kappamask_stream.radiometry import offset_scale

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

#: What each DeepLabv3+ tile is there for.
TILES = {
    "0_0": "clear land at the scene's corner",
    "8_7": "cloud, shadow and clear land",
    "12_14": "the swath's edge, 40 % nodata",
    "10_20": "the swath's edge, 31 % nodata",
    "9_22": "92 rows beyond the scene, 12 % nodata as km_predict sees it",
    "22_22": "nothing but nodata",
}

#: Bands in the files of native pixels, per ground sampling distance: the product's order.
NATIVE_BANDS = {
    10: ("AOT", "B02", "B03", "B04", "B08", "WVP"),
    20: ("B05", "B06", "B07", "B8A", "B11", "B12"),
    60: ("B01", "B09"),
}
#: Channels of DeepLabv3+, which the files of quanta have.
CHANNELS = ("AOT", "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12", "WVP")

#: BOA_ADD_OFFSET of the tiles' product, baseline 04.00: km_predict does not look at it.
OFFSETS = dict.fromkeys((band for band in CHANNELS if band.startswith("B")), -1000.0)


@dataclass(frozen=True)
class GoldenTile:
    """One tile in the folder of golden data.

    Attributes
    ----------
    folder : of all golden data.
    name : ``<column>_<row>``.
    """

    folder: Path
    name: str

    def native(self, contract: ModelContract) -> dict[str, NDArray[np.uint16]]:
        """Pixels as the product has them, per input of a contract."""
        with np.load(self.folder / f"native_{self.name}.npz") as file:
            return {
                group.tensor: file[f"x{group.gsd_m}"][[NATIVE_BANDS[group.gsd_m].index(band) for band in group.bands]]
                for group in contract.inputs
            }

    def request(self, contract: ModelContract) -> TileRequest:
        """What the client sends in km_predict's radiometry."""
        offset, scale = offset_scale(contract, offsets=OFFSETS, quantification={}, radiometry="km_predict")
        return TileRequest(
            name=self.name, tensors=self.native(contract), offset=offset, scale=scale, probabilities=True
        )

    def inputs(self, contract: ModelContract) -> dict[str, NDArray[Any]]:
        """The tensors of `request`."""
        request = self.request(contract)
        return {**request.tensors, "OFFSET": request.offset, "SCALE": request.scale}

    def quanta(self, contract: ModelContract) -> NDArray[np.uint16]:
        """What the network saw before the normalisation ``[channels, 512, 512]``, whole DN."""
        with np.load(self.folder / f"tile_{self.name}_quanta.npz") as file:
            return np.moveaxis(file["q"][..., [CHANNELS.index(band) for band in contract.channels]], -1, 0)

    def x(self, contract: ModelContract) -> NDArray[np.float32]:
        """What the network saw ``[channels, 512, 512]``, bit for bit."""
        shares = self.quanta(contract).astype(np.float32) / np.float32(65535)
        return np.asarray(shares / per_channel(contract.divisors).astype(np.float32), np.float32)

    def output(self, file_name: str | None = None) -> Output:
        """What the network answered; of DeepLabv3+ unless another file is named."""
        with np.load(self.folder / (file_name or f"tile_{self.name}_output.npz")) as file:
            return Output(probabilities=np.moveaxis(file["prob"], -1, 0).astype(np.float32), labels=file["argmax"])


@dataclass(frozen=True)
class Output:
    """A network's answer.

    Attributes
    ----------
    probabilities : float32 ``[classes, 512, 512]``, golden ones rounded to float16.
    labels : uint8 ``[512, 512]``, argmax of what they were before.
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[np.uint8]


def per_channel(values: object) -> NDArray[np.float64]:
    """Give values of channels the axes of an image."""
    return np.asarray(values, np.float64)[:, None, None]


def agreement(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Share of pixels of the same class."""
    assert a.shape == b.shape
    return float((a == b).mean())


def difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest absolute difference."""
    assert a.shape == b.shape
    return float(np.abs(a.astype(np.float64) - b).max())
