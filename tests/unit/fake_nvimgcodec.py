"""The parts of `nvidia.nvimgcodec` that the package calls, with OpenJPEG in place of a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """First row and column, end row and column."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class CodeStream:
    """What is to be decoded."""

    data: bytes
    region: Region | None = None

    def get_sub_code_stream(self, *, region: Region) -> CodeStream:
        """Return a region of it."""
        return CodeStream(self.data, region)

    def pixels(self) -> NDArray[Any]:
        """Decode with OpenJPEG."""
        pixels: NDArray[Any] = imagecodecs.jpeg2k_decode(self.data)
        r = self.region
        return pixels if r is None else pixels[r.top : r.bottom, r.left : r.right]


@dataclass(frozen=True)
class Image:
    """Decoded pixels "on the GPU"."""

    pixels: NDArray[Any]

    def cpu(self) -> NDArray[Any]:
        """Bring them here, with an axis of channels."""
        return self.pixels[..., None]


@dataclass
class Codec:
    """The module.

    Attributes
    ----------
    change : what becomes of the pixels of each codestream; None: it cannot be decoded.
    opening : raised where a decoder is made.
    sizes : codestreams of each batch that was decoded.
    """

    change: Callable[[NDArray[Any]], NDArray[Any] | None] = lambda pixels: pixels
    opening: Exception | None = None
    sizes: list[int] = field(default_factory=list)

    BackendKind = Enum("BackendKind", "GPU_ONLY CPU_ONLY")
    ColorSpec = Enum("ColorSpec", "UNCHANGED")
    CodeStream = CodeStream
    Region = Region
    Backend = staticmethod(lambda kind: kind)
    DecodeParams = staticmethod(lambda **options: options)

    def Decoder(self, *, device_id: int, backends: list[Any]) -> Any:  # noqa: N802 - the module's name
        """Return a decoder."""
        assert (device_id, backends) == (0, [Codec.BackendKind.GPU_ONLY])
        if self.opening is not None:
            raise self.opening
        return SimpleNamespace(decode=self._decode)

    def _decode(self, streams: list[CodeStream], *, params: dict[str, Any]) -> list[Image | None]:
        assert params["allow_any_depth"], "15 bits must not be scaled to 8"
        self.sizes.append(len(streams))
        return [self._image(stream) for stream in streams]

    def _image(self, stream: CodeStream) -> Image | None:
        try:
            pixels = self.change(stream.pixels())
        except imagecodecs.Jpeg2kError:
            return None
        return None if pixels is None else Image(np.asarray(pixels))
