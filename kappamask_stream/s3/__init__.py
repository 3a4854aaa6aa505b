"""S3: one client for sources and outputs, with limits, retries and resumed reads."""

from kappamask_stream.s3.client import SEGMENT_BYTES, S3Client
from kappamask_stream.s3.options import CDSE, S3Object, S3Options, is_s3_url, parse_s3_url
from kappamask_stream.s3.reading import Version
from kappamask_stream.s3.retry import Patience
from kappamask_stream.s3.stores import Stores

__all__ = [
    "CDSE",
    "SEGMENT_BYTES",
    "Patience",
    "S3Client",
    "S3Object",
    "S3Options",
    "Stores",
    "Version",
    "is_s3_url",
    "parse_s3_url",
]
