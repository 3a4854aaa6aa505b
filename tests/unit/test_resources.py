"""What a process decodes with: chosen once, and refused before anything is read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kappamask_stream import Masker
from kappamask_stream.errors import UsageError
from kappamask_stream.jp2 import ImagecodecsDecoder
from kappamask_stream.jp2.nvimgcodec import NvImageCodecDecoder
from kappamask_stream.resources import Resources, decode_threads
from kappamask_stream.settings import Settings, load_settings
from tests.unit.fake_nvimgcodec import Codec
from tests.unit.test_cli import command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.test_cli import Ended

__all__ = ["command"]


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> Codec:
    """NVIDIA's module, with OpenJPEG in place of the GPU."""
    codec = Codec()
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", codec)
    return codec


@pytest.fixture
def no_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the packages are not installed."""
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)


def test_the_cpu_decodes_unless_asked_otherwise(codec: Codec) -> None:
    with Resources(settings=Settings(decode_threads=3)) as resources:
        assert isinstance(resources.decoder, ImagecodecsDecoder)
        assert resources.decode_threads == 3
    assert codec.sizes == []


def test_the_gpu_decoder_is_made_and_tried_out_once(codec: Codec) -> None:
    with Resources(settings=Settings(decoder="gpu")) as resources:
        assert isinstance(resources.decoder, NvImageCodecDecoder)
        assert resources.decode_threads == 64
        assert codec.sizes == [1]


def test_many_threads_wait_for_a_gpu_unless_their_number_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = Settings().decode_threads
    assert decode_threads(Settings()) == cores
    assert decode_threads(Settings(decoder="gpu")) == 64
    assert decode_threads(Settings(decoder="gpu", decode_threads=5)) == 5
    monkeypatch.setenv("KAPPAMASK_DECODE_THREADS", "7")
    assert decode_threads(load_settings(decoder="gpu")) == 7


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Codec(opening=RuntimeError("no CUDA-capable device")), "needs an NVIDIA GPU and its driver: no CUDA-capable"),
        (Codec(change=lambda _: None), "it gives nothing; install nvidia-nvjpeg2k-cu13, of the same CUDA"),
        (Codec(change=lambda pixels: (pixels >> 7).astype(np.uint8)), "it gives other pixels than OpenJPEG"),
        (Codec(change=lambda _: 1 // 0), "on GPU 0: integer division"),
    ],
)
def test_a_gpu_that_does_not_decode_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, broken: Codec, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", broken)
    with pytest.raises(UsageError, match=message) as refused, Resources(settings=Settings(decoder="gpu")):
        pass
    assert "--decoder cpu" in str(refused.value)


def test_run_ends_before_it_looks_for_the_product(
    command: Callable[..., Ended], no_codec: None, tmp_path: Path
) -> None:
    for processes in (1, 2):
        ended = command("run", "--decoder", "gpu", "--processes", processes, tmp_path / "no", tmp_path / "neither")
        assert ended.code == 2
        assert ended.err == (
            "error: decoding on the GPU needs nvidia-nvimgcodec-cu13 and nvidia-nvjpeg2k-cu13: pip install both, or "
            "decode on the CPU (--decoder cpu)\n"
        )


async def test_the_library_refuses_it_on_entering(no_codec: None) -> None:
    with pytest.raises(UsageError, match="nvidia-nvjpeg2k-cu13"):
        async with Masker(settings=load_settings(decoder="gpu")):
            pass
