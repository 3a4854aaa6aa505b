"""JPEG 2000 on an NVIDIA GPU: nvImageCodec decodes codestream tiles in batches, behind the interface of one at a time.

Optional: needs ``nvidia-nvimgcodec-cu13`` and ``nvidia-nvjpeg2k-cu13`` (NVIDIA's proprietary licence, PyPI) and a GPU.
Batches form by themselves: the first thread that finds the GPU free decodes all that waits, for itself and for the
others; what comes meanwhile is the next batch. So it wants many threads that wait, 32 or more, which cost no CPU.
"""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import imagecodecs
import numpy as np

from kappamask_stream.errors import CodestreamError, UsageError
from kappamask_stream.jp2.origin import framed, moved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Rows and columns of what is decoded at the start, to see that it works.
_TRIAL_SIDE = 256
#: Codestreams in a batch at most: with 1024-pixel tiles 64 MB of pixels.
MAX_BATCH = 32


class DecodeBatch(Protocol):
    """Decodes several codestreams at once."""

    def __call__(self, codestreams: Sequence[bytes]) -> Sequence[NDArray[Any] | None]:
        """Return each one's pixels ``[height, width]``, None for what cannot be decoded."""
        ...


@dataclass(eq=False)
class _Waiting:
    """One thread's codestream, and what becomes of it."""

    codestream: bytes
    pixels: NDArray[Any] | None = None
    error: Exception | None = None
    done: bool = False


@dataclass
class _Queue:
    """What waits, and whether some thread is decoding. `changed` guards both."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: list[_Waiting] = field(default_factory=list)
    is_busy: bool = False


class BatchingDecoder:
    """A `TileDecoder` over something that decodes batches; one instance serves all threads.

    Parameters
    ----------
    decode_batch : called by one thread at a time.
    max_batch : codestreams in a call, at most.
    """

    #: nvJPEG2000 decoded other valid codestreams to wrong pixels without a word, and was not tried on these.
    takes_thinned = False

    def __init__(self, decode_batch: DecodeBatch, *, max_batch: int = MAX_BATCH) -> None:
        self._decode_batch, self._max_batch = decode_batch, max_batch
        self._queue = _Queue()

    def __repr__(self) -> str:
        busy = "decoding" if self._queue.is_busy else "idle"
        return f"<{type(self).__name__} {busy}, {len(self._queue.waiting)} waiting>"

    def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
        """See `TileDecoder.decode`."""
        mine = _Waiting(codestream)
        self._wait_for(mine)
        if mine.error is not None:
            raise CodestreamError(f"{name} cannot be decoded on the GPU: {mine.error}") from mine.error
        if mine.pixels is None:
            raise CodestreamError(
                f"{name} cannot be decoded on the GPU: the file is truncated or corrupt, fetch it again, "
                "or of a kind that nvJPEG2000 does not have: decode it on the CPU"
            )
        if mine.pixels.shape != (height, width) or mine.pixels.dtype.kind != "u":
            raise CodestreamError(
                f"{name} decodes to {mine.pixels.dtype} {list(mine.pixels.shape)}, "
                f"its header says unsigned [{height}, {width}]"
            )
        return mine.pixels.astype(np.uint16, copy=False)

    def _wait_for(self, mine: _Waiting) -> None:
        """Return when somebody, perhaps this thread, has decoded `mine`."""
        queue = self._queue
        with queue.changed:
            queue.waiting.append(mine)
            while not mine.done and queue.is_busy:
                queue.changed.wait()
            if mine.done:
                return
            queue.is_busy = True
        try:
            while not mine.done:  # as many batches as stand before it
                self._decode_some()
        finally:
            with queue.changed:
                queue.is_busy = False
                queue.changed.notify_all()

    def _decode_some(self) -> None:
        """Decode one batch of what waits, oldest first."""
        queue = self._queue
        with queue.changed:
            batch, queue.waiting = queue.waiting[: self._max_batch], queue.waiting[self._max_batch :]
        for each in batch:
            each.error = RuntimeError("decoding was interrupted")
        try:
            if not self._tried(batch) and len(batch) > 1:
                for each in batch:  # one that cannot be decoded, of another product perhaps, must not fail the others
                    self._tried([each])
        finally:  # nobody waits for ever, whatever ended this thread
            with queue.changed:
                for each in batch:
                    each.done = True
                queue.changed.notify_all()

    def _tried(self, batch: list[_Waiting]) -> bool:
        """Decode some together; False where that fails, and all of them have the error."""
        try:
            found = self._decode_batch([each.codestream for each in batch])
            if len(found) != len(batch):
                raise RuntimeError(f"{len(found)} answers for {len(batch)} codestreams")  # noqa: TRY301 - like any other
        except Exception as error:  # noqa: BLE001 - raised in each thread whose codestream it was
            for each in batch:
                each.error = error
            return False
        for each, pixels in zip(batch, found, strict=True):
            each.pixels, each.error = pixels, None
        return True


class NvImageCodecDecoder(BatchingDecoder):
    """nvJPEG2000 through nvImageCodec.

    Parameters
    ----------
    device : number of the GPU.

    Raises
    ------
    UsageError
        If the packages or a GPU are missing, or what there is does not decode JPEG 2000 right.
    """

    def __init__(self, *, device: int = 0, max_batch: int = MAX_BATCH) -> None:
        self._codec, self._decoder, self._parameters = _open(device)
        super().__init__(self._on_gpu, max_batch=max_batch)
        self._try_out(device)

    def _try_out(self, device: int) -> None:
        """Decode something: where nvJPEG2000 is missing, or of another CUDA, all else is there and nothing decodes."""
        pixels = np.arange(_TRIAL_SIDE**2, dtype=np.uint16).reshape(_TRIAL_SIDE, _TRIAL_SIDE) // 2
        codestream = imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0, bitspersample=15)
        reason = "it gives nothing"
        try:
            (found,) = self._on_gpu([bytes(codestream)])
        except Exception as error:  # noqa: BLE001 - whatever it is, it cannot be worked with
            found, reason = None, str(error)
        if found is not None:
            reason = "it gives other pixels than OpenJPEG"
        if found is None or not np.array_equal(found, pixels):
            raise UsageError(
                f"nvImageCodec does not decode JPEG 2000 on GPU {device}: {reason}; install nvidia-nvjpeg2k-cu13, of "
                "the same CUDA as nvidia-nvimgcodec-cu13 and the driver, or decode on the CPU (--decoder cpu)"
            )

    def _on_gpu(self, codestreams: Sequence[bytes]) -> list[NDArray[Any] | None]:
        images = self._decoder.decode([self._source(each) for each in codestreams], params=self._parameters)
        return [None if image is None else np.asarray(image.cpu())[..., 0] for image in images]

    def _source(self, codestream: bytes) -> Any:
        """Return what nvImageCodec is to decode for a stand-alone tile."""
        alone = moved(codestream)
        if alone is not None:
            return self._codec.CodeStream(alone)
        whole, region = framed(codestream)
        return self._codec.CodeStream(whole).get_sub_code_stream(region=self._codec.Region(*region))


def _open(device: int) -> tuple[Any, Any, Any]:
    """Return the module, a decoder and its parameters: pixels as they are, nothing scaled to 8 bits."""
    try:
        codec: Any = importlib.import_module("nvidia.nvimgcodec")
        decoder = codec.Decoder(device_id=device, backends=[codec.Backend(codec.BackendKind.GPU_ONLY)])
        parameters = codec.DecodeParams(
            allow_any_depth=True, color_spec=codec.ColorSpec.UNCHANGED, apply_exif_orientation=False
        )
    except ImportError as error:
        raise UsageError(
            "decoding on the GPU needs nvidia-nvimgcodec-cu13 and nvidia-nvjpeg2k-cu13: pip install both, or decode on "
            "the CPU (--decoder cpu)"
        ) from error
    except RuntimeError as error:
        raise UsageError(
            f"decoding on the GPU needs an NVIDIA GPU and its driver: {error}; decode on the CPU (--decoder cpu)"
        ) from error
    return codec, decoder, parameters
