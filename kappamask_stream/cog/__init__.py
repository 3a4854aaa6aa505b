"""Cloud Optimized GeoTIFFs of masks, built while tiles arrive."""

from kappamask_stream.cog.stream import CogStream, write_atomically
from kappamask_stream.cog.tags import read_fingerprint
from kappamask_stream.cog.tiff import CogSpec

__all__ = ["CogSpec", "CogStream", "read_fingerprint", "write_atomically"]
