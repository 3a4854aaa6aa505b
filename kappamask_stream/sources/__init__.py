"""Where a product's files are, and how their bytes are read."""

from kappamask_stream.sources.directory import DirectorySource
from kappamask_stream.sources.types import Source, SubSource

__all__ = ["DirectorySource", "Source", "SubSource"]
