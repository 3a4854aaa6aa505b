"""Cloud Optimized GeoTIFFs, built while tiles arrive."""

from kappamask_stream.cog.blocks import SpilledBlocks, scratch_error
from kappamask_stream.cog.stream import CogStream
from kappamask_stream.cog.tags import FoundMask, inspect_head, inspect_mask, read_quicklook_pixels
from kappamask_stream.cog.tiff import CogSpec

__all__ = [
    "CogSpec",
    "CogStream",
    "FoundMask",
    "SpilledBlocks",
    "inspect_head",
    "inspect_mask",
    "read_quicklook_pixels",
    "scratch_error",
]
