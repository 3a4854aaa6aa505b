"""Where the files of one product go: a directory, a prefix of an object store, or nowhere."""

from kappamask_stream.destinations.choice import make_destination
from kappamask_stream.destinations.digests import FileFacts, file_facts
from kappamask_stream.destinations.folder import FolderDestination
from kappamask_stream.destinations.nowhere import Nowhere
from kappamask_stream.destinations.s3 import S3Destination
from kappamask_stream.destinations.types import Destination, OutputFile

__all__ = [
    "Destination",
    "FileFacts",
    "FolderDestination",
    "Nowhere",
    "OutputFile",
    "S3Destination",
    "file_facts",
    "make_destination",
]
