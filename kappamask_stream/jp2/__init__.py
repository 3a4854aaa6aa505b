"""JPEG 2000 by the codestream tile: index once, decode each tile once, keep it while it is needed."""

from kappamask_stream.jp2.codestream import CodestreamIndex, CodestreamTile, index_steps
from kappamask_stream.jp2.decode import ImagecodecsDecoder, RasterioDecoder, TileDecoder
from kappamask_stream.jp2.indexing import index_bands
from kappamask_stream.jp2.plan import BandInput, DecodePlan, bands_of
from kappamask_stream.jp2.stream import ReadStats, TilePixels, TileStream

__all__ = [
    "BandInput",
    "CodestreamIndex",
    "CodestreamTile",
    "DecodePlan",
    "ImagecodecsDecoder",
    "RasterioDecoder",
    "ReadStats",
    "TileDecoder",
    "TilePixels",
    "TileStream",
    "bands_of",
    "index_bands",
    "index_steps",
]
