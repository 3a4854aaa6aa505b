"""Options of the worker's settings, and of inference servers elsewhere, in the groups under which help shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from kappamask_stream.cli.options import SERVER, TELLING, WHICH

WORKER = "How it works, and ends"

GraceS = Annotated[
    float | None,
    typer.Option(
        "--grace-s",
        metavar="SECONDS",
        min=0,
        help="Seconds after SIGTERM or a spot notice in which products in work may be finished; what does not fit goes "
        "back to the queue at once. [default: 100.0]",
        rich_help_panel=WORKER,
    ),
]
Spot = Annotated[
    bool | None,
    typer.Option(
        "--spot/--no-spot",
        help="Watch for the interruption notice of a spot instance, and drain when it comes. [default: True]",
        show_default=False,
        rich_help_panel=WORKER,
    ),
]
PendingMost = Annotated[
    int | None,
    typer.Option(
        "--pending-most",
        min=1,
        help="Requests pending in the inference server above which no new product is taken. [default: 4 x batch x "
        "instances of the model]",
        rich_help_panel=WORKER,
    ),
]
UntilEmpty = Annotated[
    bool,
    typer.Option(
        "--until-empty",
        help="End when the queue has given nothing for a whole long poll and nothing is in work here.",
        rich_help_panel=WORKER,
    ),
]
MaxMessages = Annotated[
    int | None,
    typer.Option("--max-messages", metavar="N", min=1, help="End after so many messages.", rich_help_panel=WORKER),
]
Allow = Annotated[
    str | None,
    typer.Option(
        "--allow",
        metavar="PLACE[,PLACE…]",
        help="Places that a message's own location may be read from: s3://BUCKET/PREFIX, https://HOST/PATH, or the "
        "word default for Amazon's Sentinel-2 buckets, CDSE's and Earth Search's. Products elsewhere are found by "
        "name, with --source. [default: default]",
        rich_help_panel=WHICH,
    ),
]
Emit = Annotated[
    str | None,
    typer.Option(
        "--emit",
        metavar="ARN|URL",
        help="SNS topic, or SQS queue, that gets the STAC Item of each finished mask.",
        rich_help_panel=TELLING,
    ),
]
Listen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="HOST:PORT|none",
        help="Where metrics, health and the status page are served. They tell what is worked on to whoever can reach "
        "them. [default: 127.0.0.1:9108]",
        rich_help_panel=TELLING,
    ),
]
LogFormat = Annotated[
    Literal["text", "json"] | None,
    typer.Option(
        "--log-format", help="Lines for people, or one JSON object each. [default: text]", rich_help_panel=TELLING
    ),
]
TritonCa = Annotated[
    str | None,
    typer.Option(
        "--triton-ca",
        metavar="FILE",
        help="CAs that certificates of grpcs:// servers are checked with (PEM). [default: those of gRPC]",
        rich_help_panel=SERVER,
    ),
]
TritonCertificate = Annotated[
    str | None,
    typer.Option(
        "--triton-certificate",
        metavar="FILE",
        help="This client's certificate, for servers that want one (PEM).",
        rich_help_panel=SERVER,
    ),
]
TritonKey = Annotated[
    str | None,
    typer.Option("--triton-key", metavar="FILE", help="Its private key (PEM).", rich_help_panel=SERVER),
]
TritonTokenFile = Annotated[
    str | None,
    typer.Option(
        "--triton-token-file",
        metavar="FILE",
        help="Token that goes with each request as a header; read again when the file changes.",
        rich_help_panel=SERVER,
    ),
]
TritonMetrics = Annotated[
    str | None,
    typer.Option(
        "--triton-metrics",
        metavar="URL",
        help="The server's metrics, http://HOST:8002/metrics: tell how many requests are pending. [default: queue "
        "times of the statistics extension]",
        rich_help_panel=SERVER,
    ),
]

#: Groups of flags for `setting_flags.takes_setting_flags`: by name of the setting.
TRITON_FLAGS: dict[str, Any] = {
    "triton_ca": TritonCa,
    "triton_certificate": TritonCertificate,
    "triton_key": TritonKey,
    "triton_token_file": TritonTokenFile,
}
WORKER_FLAGS: dict[str, Any] = {
    "triton_metrics": TritonMetrics,
    "allow": Allow,
    "grace_s": GraceS,
    "spot": Spot,
    "pending_most": PendingMost,
    "emit": Emit,
    "listen": Listen,
    "log_format": LogFormat,
}
