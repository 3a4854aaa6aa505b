"""Cloud Optimized GeoTIFFs of masks, built while tiles arrive."""

from kappamask_stream.cog.stream import CogStream
from kappamask_stream.cog.tags import FoundMask, inspect_mask, read_quicklook_pixels
from kappamask_stream.cog.tiff import CogSpec

__all__ = ["CogSpec", "CogStream", "FoundMask", "inspect_mask", "read_quicklook_pixels"]
