"""Decoders of one codestream: bytes in, pixels out. They release the GIL and are called from threads."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Protocol

import imagecodecs
import numpy as np

from kappamask_stream.errors import CodestreamError

if TYPE_CHECKING:
    from numpy.typing import NDArray


_FILTERS = threading.Lock()


class TileDecoder(Protocol):
    """Decodes stand-alone codestreams; one instance serves all threads.

    Attributes
    ----------
    takes_thinned : True where a tile of which packets are emptied (`precincts`) is known to decode right.
    """

    takes_thinned: bool

    def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
        """Return uint16 ``[height, width]``.

        Raises
        ------
        CodestreamError
            Naming `name`, if the bytes are corrupt or give pixels of another shape.
        """
        ...


class ImagecodecsDecoder:
    """OpenJPEG through imagecodecs: the cheapest per tile."""

    takes_thinned = True

    def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
        """See `TileDecoder.decode`."""
        try:
            pixels = imagecodecs.jpeg2k_decode(codestream, numthreads=1)
        except (imagecodecs.Jpeg2kError, ValueError) as error:
            raise _corrupt(name, error) from error
        except MemoryError as error:
            raise CodestreamError(
                f"{name} cannot be decoded: no memory for {height} x {width} pixels; use fewer decode threads"
            ) from error
        return _checked(pixels, height, width, name)


class RasterioDecoder:
    """OpenJPEG through GDAL: an independent reader of the same bytes."""

    takes_thinned = True

    def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
        """See `TileDecoder.decode`."""
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
        from rasterio.io import MemoryFile

        try:
            with MemoryFile(codestream, ext="j2k") as memory:
                # The filters are the process's: two threads that both put them aside would put them back wrongly.
                with _FILTERS, warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotGeoreferencedWarning)
                    dataset = memory.open(driver="JP2OpenJPEG")
                with dataset:
                    pixels = dataset.read(1)
        # Where there is nothing to open, rasterio takes the call for one that writes.
        except (RasterioError, ValueError, TypeError) as error:
            raise _corrupt(name, error) from error
        return _checked(pixels, height, width, name)


def _corrupt(name: str, error: Exception) -> CodestreamError:
    return CodestreamError(f"{name} cannot be decoded ({error}): the file is truncated or corrupt, fetch it again")


def _checked(pixels: NDArray[np.generic], height: int, width: int, name: str) -> NDArray[np.uint16]:
    if pixels.shape != (height, width) or pixels.dtype.kind != "u":
        raise CodestreamError(
            f"{name} decodes to {pixels.dtype} {list(pixels.shape)}, its header says unsigned [{height}, {width}]"
        )
    return pixels.astype(np.uint16, copy=False)
