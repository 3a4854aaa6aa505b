"""Whatever decodes, and whatever of a codestream tile it decodes: the mask is the same to the byte."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.jp2 import ImagecodecsDecoder
from kappamask_stream.settings import Settings
from tests.stream.naive import Network
from tests.stream.scene import l2a_scene, small_l2a
from tests.stream.test_pipeline import masked
from tests.stream.test_pipeline_aoi import SHAPES, area
from tests.unit.fake_nvimgcodec import Codec

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.result import ProductResult
    from tests.stream.scene import Scene

__all__ = ["l2a_scene", "small_l2a"]


def content(result: ProductResult) -> bytes:
    assert result.output is not None
    return Path(result.output).read_bytes()


async def test_a_mask_by_the_gpu_decoder_is_the_same_file(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await masked(l2a_scene, Network(small_l2a), tmp_path / "cpu")
    codec = Codec()
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", codec)
    found = await masked(l2a_scene, Network(small_l2a), tmp_path / "gpu", settings=Settings(decoder="gpu"))
    assert content(found) == content(expected)
    assert found.fingerprint == expected.fingerprint
    tried_out = 1
    assert sum(codec.sizes) == found.codestream_tiles_decoded + tried_out
    again = await masked(l2a_scene, Network(small_l2a), tmp_path / "cpu", settings=Settings(decoder="gpu"))
    assert again.status == "skipped"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_mask_of_an_area_is_the_same_file_from_whole_tiles(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    aoi = await area(l2a_scene, SHAPES[shape])
    thinned = await masked(l2a_scene, Network(small_l2a), tmp_path / "thinned", aoi=aoi)
    monkeypatch.setattr(ImagecodecsDecoder, "takes_thinned", False)
    whole = await masked(l2a_scene, Network(small_l2a), tmp_path / "whole", aoi=aoi)
    assert content(thinned) == content(whole)
