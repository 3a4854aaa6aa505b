"""JPEG 2000 by the codestream tile: index once, decode each tile once, keep it while it is needed."""

from kappamask_stream.jp2.codestream import CodestreamIndex, CodestreamTile, index_steps
from kappamask_stream.jp2.decode import ImagecodecsDecoder, RasterioDecoder, TileDecoder
from kappamask_stream.jp2.geometry import TileGeometry
from kappamask_stream.jp2.indexing import IndexCost, index_bands
from kappamask_stream.jp2.plan import BandInput, DecodePlan, bands_of, wanted_tiles
from kappamask_stream.jp2.reading import ReadStats
from kappamask_stream.jp2.reduced_band import ReducedBand
from kappamask_stream.jp2.stream import TilePixels, TileStream

__all__ = [
    "BandInput",
    "CodestreamIndex",
    "CodestreamTile",
    "DecodePlan",
    "ImagecodecsDecoder",
    "IndexCost",
    "RasterioDecoder",
    "ReadStats",
    "ReducedBand",
    "TileDecoder",
    "TileGeometry",
    "TilePixels",
    "TileStream",
    "bands_of",
    "index_bands",
    "index_steps",
    "wanted_tiles",
]
