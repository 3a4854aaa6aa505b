"""Options that several commands share, each in the group under which help shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kappamask_stream.cli.completion import complete_classes, complete_models, complete_sources
from kappamask_stream.errors import UsageError

WHICH = "Which products, which part of them"
NETWORK = "Network"
MASK = "Mask"
OUTPUTS = "What is written, and where"
SERVER = "Server and limits"
STORES = "Object stores (s3://)"
TELLING = "What is said"

Products = Annotated[
    list[str] | None,
    typer.Argument(
        help="SAFE directories, zips, globs, s3:// prefixes or zips, STAC Items (files, s3://, https://), names with "
        "--source; - reads more from stdin, one a line.",
        metavar="PRODUCT",
        show_default=False,
    ),
]
ProductsFile = Annotated[
    str | None,
    typer.Option(
        "--products-file",
        metavar="FILE",
        help="Read products from a file, one a line; empty lines and lines that begin with # are passed over; - is "
        "stdin.",
        rich_help_panel=WHICH,
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="aws|cdse|DIR",
        help="Where products are that are given by name: Amazon's buckets, Copernicus Data Space, or a folder.",
        rich_help_panel=WHICH,
        autocompletion=complete_sources,
    ),
]
Aoi = Annotated[
    str | None,
    typer.Option(
        "--aoi",
        metavar="AREA",
        help="Mask an area only: WEST,SOUTH,EAST,NORTH[,EPSG:CODE], WKT or EWKT, GeoJSON, or a file with one of these. "
        "[default: the whole product]",
        rich_help_panel=WHICH,
    ),
]
AllowCoarser = Annotated[
    bool,
    typer.Option(
        "--allow-coarser",
        help="Replicate the pixels of a band that a STAC Item has only at a coarser resolution than the network asks.",
        rich_help_panel=WHICH,
    ),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Check the manifest's checksums before masking.", rich_help_panel=WHICH)
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="DIR|s3://…", help="Folder for the masks. [default: .]", rich_help_panel=OUTPUTS
    ),
]
Png = Annotated[
    bool,
    typer.Option(
        "--png", help="Also the mask as PNG in km_predict's grey codes, and a world file.", rich_help_panel=OUTPUTS
    ),
]
Probabilities = Annotated[
    bool,
    typer.Option(
        "--probabilities", help="Also a GeoTIFF of the classes' probabilities, a band each.", rich_help_panel=OUTPUTS
    ),
]
Subtiles = Annotated[
    bool,
    typer.Option(
        "--subtiles", help="Also each tile's own mask, the moment it is known, as km_predict.", rich_help_panel=OUTPUTS
    ),
]
Stac = Annotated[bool, typer.Option("--stac", help="Also a STAC Item and its Collection.", rich_help_panel=OUTPUTS)]
Report = Annotated[bool, typer.Option("--report", help="Also one HTML page to look at.", rich_help_panel=OUTPUTS)]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a different mask of the same name.", rich_help_panel=OUTPUTS)
]
Compression = Annotated[
    Literal["deflate", "zstd"] | None,
    typer.Option("--compression", help="Of the mask's blocks. [default: deflate]", rich_help_panel=OUTPUTS),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        help="kappamask, csmask, or any model name that the server holds.",
        rich_help_panel=NETWORK,
        autocompletion=complete_models,
    ),
]
Architecture = Annotated[
    Literal["DeepLabv3Plus", "Unet"] | None,
    typer.Option("--architecture", help="KappaMask's network. [default: DeepLabv3Plus]", rich_help_panel=NETWORK),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="KappaMask weights (Keras HDF5) for the server on this machine. [default: those fetched]",
        exists=True,
        dir_okay=False,
        rich_help_panel=NETWORK,
    ),
]
PrecisionOption = Annotated[
    Literal["f32", "bf16", "fp16"] | None,
    typer.Option("--precision", help="Of the network. [default: f32]", rich_help_panel=NETWORK),
]
RadiometryOption = Annotated[
    Literal["corrected", "km_predict"],
    typer.Option(
        "--radiometry",
        help="corrected: offsets as the metadata says; km_predict: km_predict's own arithmetic.",
        rich_help_panel=MASK,
    ),
]
Mosaic = Annotated[
    Literal["crop", "blend"],
    typer.Option(
        "--mosaic", help="crop: each tile's core; blend: overlapping tiles are weighed.", rich_help_panel=MASK
    ),
]
Dilate = Annotated[
    list[str] | None,
    typer.Option(
        "--dilate",
        metavar="CLASS=METRES",
        help="Grow a class over others, e.g. CLOUD=200. May be given again; earlier ones come first.",
        rich_help_panel=MASK,
        show_default=False,
        autocompletion=complete_classes,
    ),
]
Triton = Annotated[
    str | None,
    typer.Option(
        "--triton",
        metavar="URL",
        help="grpc://HOST:PORT of a Triton server; grpcs:// for TLS, dns:///NAME:PORT for many. [default: one is "
        "started on this machine]",
        rich_help_panel=SERVER,
    ),
]
KeepServer = Annotated[
    bool,
    typer.Option(
        "--keep-server",
        help="Leave the local server running (`server stop` ends it).",
        rich_help_panel=SERVER,
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option("--concurrency", min=1, help="Products in work at once. [default: 2]", rich_help_panel=SERVER),
]
MaxInFlight = Annotated[
    int | None,
    typer.Option(
        "--max-in-flight",
        min=1,
        help="Requests in flight. [default: 2 x batch x instances of the model]",
        rich_help_panel=SERVER,
    ),
]
MemoryBudget = Annotated[
    int | None,
    typer.Option(
        "--memory-budget-mb", min=16, help="Decoded pixels held at once, MB. [default: 448]", rich_help_panel=SERVER
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        min=1,
        help="Spread products over processes, each with limits of its own: where one event loop is the limit. "
        "[default: 1]",
        rich_help_panel=SERVER,
    ),
]
SharedMemory = Annotated[
    Literal["auto", "off"] | None,
    typer.Option(
        "--shared-memory",
        help="Tensors through shared memory where the server is on this machine and lets it, or never. [default: auto]",
        rich_help_panel=SERVER,
    ),
]
Decoder = Annotated[
    Literal["cpu", "gpu"] | None,
    typer.Option(
        "--decoder", help="Decode JPEG 2000 with OpenJPEG, or on an NVIDIA GPU. [default: cpu]", rich_help_panel=SERVER
    ),
]
Priority = Annotated[
    Literal["interactive", "backlog"] | None,
    typer.Option(
        "--priority",
        help="Lane on the server: tiles of the backlog wait for those of interactive clients. [default: interactive "
        "for run, backlog for worker]",
        rich_help_panel=SERVER,
    ),
]
S3Endpoint = Annotated[
    str | None,
    typer.Option(
        "--s3-endpoint",
        metavar="URL",
        help="Of a store other than Amazon's. [default: AWS, or as AWS_ENDPOINT_URL and the profile say]",
        rich_help_panel=STORES,
    ),
]
S3Region = Annotated[
    str | None,
    typer.Option(
        "--s3-region",
        metavar="NAME",
        help="Region. [default: as AWS_REGION and the profile say]",
        rich_help_panel=STORES,
    ),
]
S3Profile = Annotated[
    str | None,
    typer.Option(
        "--s3-profile",
        metavar="NAME",
        help="Section of the AWS configuration. [default: the usual chain of AWS credentials]",
        rich_help_panel=STORES,
    ),
]
S3Anonymous = Annotated[
    bool | None,
    typer.Option(
        "--s3-anonymous",
        help="Send requests without credentials: for public data.",
        show_default=False,
        rich_help_panel=STORES,
    ),
]
S3RequesterPays = Annotated[
    bool | None,
    typer.Option(
        "--s3-requester-pays",
        help="Agree to pay for requests and traffic. [default: for Amazon's sentinel-s2-l1c only]",
        show_default=False,
        rich_help_panel=STORES,
    ),
]
OutputS3Endpoint = Annotated[
    str | None,
    typer.Option(
        "--output-s3-endpoint",
        metavar="URL",
        help="Of the store that outputs go to, where it is another. [default: as for products]",
        rich_help_panel=STORES,
    ),
]
OutputS3Region = Annotated[
    str | None,
    typer.Option(
        "--output-s3-region",
        metavar="NAME",
        help="Region for outputs. [default: as for products]",
        rich_help_panel=STORES,
    ),
]
OutputS3Profile = Annotated[
    str | None,
    typer.Option(
        "--output-s3-profile",
        metavar="NAME",
        help="Section of the AWS configuration for outputs; `default` where products have one of their own. "
        "[default: as for products]",
        rich_help_panel=STORES,
    ),
]
FailFast = Annotated[
    bool,
    typer.Option(
        "--fail-fast",
        help="End with the first product that fails; those in work are cancelled.",
        rich_help_panel=SERVER,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object per product, and nothing else.", rich_help_panel=TELLING),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Say more: retries, the server's doings.", rich_help_panel=TELLING),
]


def require_radiometry(radiometry: str, model: str) -> None:
    """Refuse km_predict's arithmetic for a network that was not trained on it.

    Raises
    ------
    UsageError
        With the remedy.
    """
    if radiometry == "km_predict" and model == "csmask":
        raise UsageError("--radiometry km_predict is KappaMask's; csmask was trained on reflectance: leave it out")
