"""Settings of the worker, of its queue, and of inference servers elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode

from kappamask_stream.settings_masking import UserPath  # noqa: TC001 - pydantic reads it when it runs


def _listed(given: object) -> object:
    """Variables and the configuration file may give several in one text, divided by commas or blanks."""
    return tuple(given.replace(",", " ").split()) if isinstance(given, str) else given


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]


class WorkerSettings(BaseSettings):
    """What `worker`, `queue` and `submit` need beside what masking needs; see `settings.Settings`."""

    queue: str | None = Field(
        default=None,
        description="URL of the SQS queue that products come from.",
        json_schema_extra={"flag": "--queue"},
    )
    dead_letter_queue: str | None = Field(
        default=None,
        description="URL of the SQS queue that takes messages that can never be done.",
        json_schema_extra={"flag": "--dead-letter-queue", "default": "the one that the queue's redrive policy names"},
    )
    queue_endpoint: str | None = Field(
        default=None,
        description="URL of SQS and SNS other than Amazon's.",
        json_schema_extra={"flag": "--queue-endpoint", "default": "AWS, or as `AWS_ENDPOINT_URL` and the profile say"},
    )
    queue_region: str | None = Field(
        default=None,
        description="Region of the queue.",
        json_schema_extra={"flag": "--queue-region", "default": "as the queue's URL, `AWS_REGION` or the profile say"},
    )
    queue_profile: str | None = Field(
        default=None,
        description="Section of the AWS configuration for SQS and SNS.",
        json_schema_extra={"flag": "--queue-profile", "default": "the usual chain of AWS credentials"},
    )
    queue_wait_s: int = Field(
        default=20, ge=0, le=20, description="Seconds that one request to the queue waits for messages (long polling)."
    )
    visibility_s: int = Field(
        default=120,
        ge=2,
        le=43_200,
        description="Seconds for which a message in work is hidden from other workers; extended each half of it. Less "
        "lets another worker take over sooner after a crash.",
    )
    retry_after_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds after which a message that failed for a passing reason comes back; doubled with each time "
        "that it was received, with jitter.",
    )
    retry_most_s: float = Field(default=3600.0, gt=0, description="Longest such wait, seconds.")
    grace_s: float = Field(
        default=100.0,
        ge=0,
        description="Seconds after SIGTERM or a spot notice in which products that are in work may be finished; what "
        "does not fit goes back to the queue at once.",
        json_schema_extra={"flag": "--grace-s"},
    )
    spot: bool = Field(
        default=True,
        description="Watch for the interruption notice of spot instances (IMDSv2), and drain when it comes.",
        json_schema_extra={"flag": "--spot"},
    )
    poison_in_a_row: int = Field(
        default=20,
        ge=1,
        description="So many messages in a row that can never be done, and the worker stops taking for a while: the "
        "fault may be its own.",
    )
    pending_most: int | None = Field(
        default=None,
        ge=1,
        description="Requests pending in an inference server, on average, above which no new product is taken.",
        json_schema_extra={"flag": "--pending-most", "default": "4 x max_batch x instances of the model"},
    )
    allow: Listed = Field(
        default=(),
        description="Places that a message's own location may be read from: `s3://BUCKET/PREFIX`, "
        "`https://HOST/PATH`; divided by commas; the word `default` stands for the "
        "built-in ones. Other locations are not followed, products are then found by name.",
        json_schema_extra={"flag": "--allow", "default": "Amazon's Sentinel-2 buckets, CDSE's, and Earth Search's"},
    )
    emit: str | None = Field(
        default=None,
        description="ARN of an SNS topic, or URL of an SQS queue, that gets the STAC Item of each finished mask.",
        json_schema_extra={"flag": "--emit"},
    )
    listen: str = Field(
        default="127.0.0.1:9108",
        description="HOST:PORT of metrics, health and status page; `none` for none. They tell what is worked on to "
        "whoever can reach them.",
        json_schema_extra={"flag": "--listen"},
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="Lines of the worker's log: for people, or one JSON object each.",
        json_schema_extra={"flag": "--log-format"},
    )

    triton_ca: UserPath | None = Field(
        default=None,
        description="File of the CAs that certificates of `grpcs://` servers are checked with (PEM).",
        json_schema_extra={"flag": "--triton-ca", "default": "those of gRPC"},
    )
    triton_certificate: UserPath | None = Field(
        default=None,
        description="File of this client's certificate, for servers that want one (PEM).",
        json_schema_extra={"flag": "--triton-certificate"},
    )
    triton_key: UserPath | None = Field(
        default=None,
        description="File of its private key (PEM).",
        json_schema_extra={"flag": "--triton-key"},
    )
    triton_token_file: UserPath | None = Field(
        default=None,
        description="File of a token that goes with each request as `authorization: Bearer …`; read again when it "
        "changes.",
        json_schema_extra={"flag": "--triton-token-file"},
    )
    triton_metrics: str | None = Field(
        default=None,
        description="URLs of the inference servers' metrics, http://HOST:8002/metrics, divided by commas: tell how "
        "many requests are pending.",
        json_schema_extra={"flag": "--triton-metrics", "default": "none: queue times of the statistics extension"},
    )
