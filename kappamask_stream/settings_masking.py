"""Settings of masking itself: limits, places, stores, the local server."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings

if TYPE_CHECKING:
    from kappamask_stream.s3 import S3Options

#: Where KappaZeta publishes KappaMask's weights: plain HTTP, one file per level and network, no checksums.
PUBLISHED_WEIGHTS = "http://kappamask.s3-website.eu-central-1.amazonaws.com/model_weights/2022-09-13/"

#: Files and variables know no shell that would turn ``~`` into the home folder.
UserPath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]  # noqa: PTH111 - never raises


def _place(given: object) -> object:
    """Keep a URL as it is; a path would lose one of its slashes."""
    return given if not isinstance(given, str) or "://" in given else Path(os.path.expanduser(given))  # noqa: PTH111


UserPlace = Annotated[str | Path, BeforeValidator(_place)]


def _http(url: str) -> str:
    if not re.match(r"https?://[^/\s]+", url):
        raise ValueError("must begin with http://HOST or https://HOST")
    return url


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class MaskingSettings(BaseSettings):
    """What `run`, `worker` and the library share; see `settings.Settings`."""

    output: UserPlace = Field(
        default=Path(),
        description="Folder, or `s3://` prefix, that receives one folder per product.",
        json_schema_extra={"flag": "--output"},
    )
    triton: str | None = Field(
        default=None,
        description="Endpoint grpc://HOST:PORT of a Triton, grpcs:// for TLS, dns:///NAME:PORT for many; none starts "
        "one on this machine.",
        json_schema_extra={"flag": "--triton"},
    )
    compression: Literal["deflate", "zstd"] = Field(
        default="deflate",
        description="Compression of the mask; zstd is quicker to read, deflate is read everywhere.",
        json_schema_extra={"flag": "--compression"},
    )
    memory_budget_mb: int = Field(
        default=448,
        ge=16,
        description="Decoded pixels held by all products of this process, MB. A product starts when its share fits; "
        "more lets decoding run further ahead and products overlap more.",
        json_schema_extra={"flag": "--memory-budget-mb"},
    )
    disk_budget_mb: int = Field(
        default=8192,
        ge=16,
        description="What products in work of this process may write to disks at once, files and scratch files "
        "together, MB, as if nothing could be compressed. A product starts when its share fits; one that needs more "
        "than all is refused.",
    )
    decode_threads: int = Field(
        default_factory=_cores,
        ge=1,
        le=4096,
        description="Threads that decode JPEG 2000; more than cores do not help.",
        json_schema_extra={"default": "the cores that this process may use; 64 where a GPU decodes"},
    )
    read_ahead_tiles: int = Field(
        default=8, ge=1, description="Compressed codestream tiles read ahead of the decoder, per product."
    )
    store_read_ahead_mb: int = Field(
        default=64,
        ge=4,
        description="Compressed bytes of one product on their way from a store or a web server, or not yet decoded, "
        "MB; less makes more and shorter requests.",
    )
    max_in_flight: int | None = Field(
        default=None,
        ge=1,
        description="Requests in flight per model. Overload lowers it.",
        json_schema_extra={"flag": "--max-in-flight", "default": "2 x max_batch x instances of the model"},
    )
    products_at_once: int = Field(
        default=2,
        ge=1,
        description="Products in work at once; the second is read while the first is answered.",
        json_schema_extra={"flag": "--concurrency"},
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="For `run`: processes that products are spread over. Each has an event loop, its share of "
        "`decode_threads`, and `memory_budget_mb`, `products_at_once` and `max_in_flight` of its own: more where one "
        "loop is the limit.",
        json_schema_extra={"flag": "--processes"},
    )
    shared_memory: Literal["auto", "off"] = Field(
        default="auto",
        description="Tensors go through shared memory where the server is on this machine and lets it (auto), or "
        "always over gRPC (off).",
        json_schema_extra={"flag": "--shared-memory"},
    )
    decoder: Literal["cpu", "gpu"] = Field(
        default="cpu",
        description="What decodes JPEG 2000: OpenJPEG on the CPU, or nvJPEG2000 on an NVIDIA GPU of this machine.",
        json_schema_extra={"flag": "--decoder"},
    )
    priority: Literal["interactive", "backlog"] | None = Field(
        default=None,
        description="Lane on the server: tiles of the backlog wait while it has tiles of interactive clients.",
        json_schema_extra={"flag": "--priority", "default": "interactive for `run`, backlog for `worker`"},
    )
    canary_s: float = Field(
        default=600.0,
        ge=0,
        description="Seconds between checks that the server still answers a tile whose mask is known; 0: on "
        "connecting, and where there is reason to doubt.",
    )
    infer_timeout_s: float = Field(default=120.0, gt=0, description="Seconds after which a request counts as lost.")
    server_wait_s: float = Field(
        default=120.0, ge=0, description="Seconds for which an endpoint that does not answer is tried again."
    )
    tile_attempts: int = Field(
        default=4,
        ge=1,
        description="Times that a tile is sent when its requests time out or fail on the server.",
    )
    overload_wait_s: float = Field(
        default=600.0,
        gt=0,
        description="Seconds for which a tile is sent again while the server's queue is full.",
    )
    server_env: UserPath | None = Field(
        default=None,
        description="The local server's Python environment.",
        json_schema_extra={"flag": "--env", "default": "in the user's data folder"},
    )

    s3_endpoint: str | None = Field(
        default=None,
        description="URL of an S3 store other than Amazon's.",
        json_schema_extra={"flag": "--s3-endpoint", "default": "AWS, or as `AWS_ENDPOINT_URL` and the profile say"},
    )
    s3_region: str | None = Field(
        default=None,
        description="Region of the S3 store.",
        json_schema_extra={"flag": "--s3-region", "default": "as `AWS_REGION` and the profile say"},
    )
    s3_profile: str | None = Field(
        default=None,
        description="Section of the AWS configuration that credentials come from.",
        json_schema_extra={"flag": "--s3-profile", "default": "the usual chain of AWS credentials"},
    )
    s3_anonymous: bool = Field(
        default=False,
        description="Requests to S3 are not signed, no credentials are looked for: for public data.",
        json_schema_extra={"flag": "--s3-anonymous"},
    )
    s3_requester_pays: bool | None = Field(
        default=None,
        description="You agree to pay for requests to S3, and for traffic, where the owner wants it.",
        json_schema_extra={"flag": "--s3-requester-pays", "default": "for Amazon's `sentinel-s2-l1c` only"},
    )
    s3_connections: int | None = Field(
        default=None,
        ge=1,
        description="Requests at once to one S3 store, or to all web servers. More is quicker on long ways; some "
        "stores refuse more.",
        json_schema_extra={"default": "16; CDSE's quota of 4 there"},
    )
    s3_requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Most requests to one S3 store begun within any minute.",
        json_schema_extra={"default": "no limit; CDSE's quota of 2000 there"},
    )
    s3_read_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds without a byte from S3 or a web server after which a request is sent again.",
    )
    s3_wait_s: float = Field(
        default=120.0,
        ge=0,
        description="Seconds for which S3 or a web server is tried again while it is overloaded, or without getting "
        "further.",
    )

    output_s3_endpoint: str | None = Field(
        default=None,
        description="URL of the S3 store that outputs go to, where it is another one than products come from.",
        json_schema_extra={"flag": "--output-s3-endpoint", "default": "as for products"},
    )
    output_s3_region: str | None = Field(
        default=None,
        description="Region of the S3 store that outputs go to.",
        json_schema_extra={"flag": "--output-s3-region", "default": "as for products"},
    )
    output_s3_profile: str | None = Field(
        default=None,
        description="Section of the AWS configuration for outputs; `default` where products have one of their own.",
        json_schema_extra={"flag": "--output-s3-profile", "default": "as for products"},
    )

    weights_dir: UserPath | None = Field(
        default=None,
        description="Folder that keeps fetched KappaMask weights, each with a record of its sha256.",
        json_schema_extra={"default": "in the user's cache folder"},
    )
    weights_url: Annotated[str, AfterValidator(_http)] = Field(
        default=PUBLISHED_WEIGHTS,
        description="Folder that `models fetch` takes KappaMask's weights from: KappaZeta's, or your mirror of it.",
        json_schema_extra={"flag": "--url"},
    )

    @property
    def memory_budget_bytes(self) -> int:
        """The ring buffers' budget in bytes."""
        return self.memory_budget_mb * 1024 * 1024

    @property
    def disk_budget_bytes(self) -> int:
        """What products in work may have written, in bytes."""
        return self.disk_budget_mb * 1024 * 1024

    @property
    def s3_options(self) -> S3Options:
        """How S3 stores are reached that products come from.

        Raises
        ------
        UsageError
            If two settings exclude each other, or the endpoint is no URL.
        """
        from kappamask_stream.s3 import Patience, S3Options  # imports that only S3 needs

        return S3Options(
            endpoint_url=self.s3_endpoint,
            region=self.s3_region,
            profile=self.s3_profile,
            anonymous=self.s3_anonymous,
            requester_pays=self.s3_requester_pays,
            max_connections=self.s3_connections,
            requests_per_minute=self.s3_requests_per_minute,
            patience=Patience(read_s=self.s3_read_timeout_s, wait_s=self.s3_wait_s),
        )

    @property
    def output_s3_options(self) -> S3Options:
        """How the S3 store is reached that outputs go to: as that of products, unless one of its settings is given.

        Raises
        ------
        UsageError
            If the endpoint is no URL.
        """
        if self.output_s3_endpoint is self.output_s3_region is self.output_s3_profile is None:
            return self.s3_options
        return replace(
            self.s3_options,
            endpoint_url=self.output_s3_endpoint,
            region=self.output_s3_region,
            profile=self.output_s3_profile,
            anonymous=False,
            requester_pays=None,
        )
