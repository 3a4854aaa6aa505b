"""Cloud Optimized GeoTIFFs, built while tiles arrive."""

from kappamask_stream.cog.blocks import SpilledBlocks, scratch_error
from kappamask_stream.cog.stream import MOST_QUICKLOOK_PIXELS, CogStream
from kappamask_stream.cog.tags import FoundMask, inspect_head, inspect_mask, read_quicklook_pixels
from kappamask_stream.cog.tiff import CogSpec, most_bytes

__all__ = [
    "MOST_QUICKLOOK_PIXELS",
    "CogSpec",
    "CogStream",
    "FoundMask",
    "SpilledBlocks",
    "inspect_head",
    "inspect_mask",
    "most_bytes",
    "read_quicklook_pixels",
    "scratch_error",
]
