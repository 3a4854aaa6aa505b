"""All limits and places in one model: flags, ``KAPPAMASK_*`` variables and defaults meet here.

Every limit has a currency in its name; the description says what a larger or smaller value does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from kappamask_stream.errors import UsageError


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """Settings of one process; flags override variables, variables override defaults."""

    model_config = SettingsConfigDict(env_prefix="KAPPAMASK_", extra="ignore", frozen=True)

    output: Path = Field(default=Path(), description="Folder that receives one folder per product.")
    triton: str | None = Field(
        default=None, description="Endpoint grpc://HOST:PORT of a Triton; none starts one on this machine."
    )
    compression: Literal["deflate", "zstd"] = Field(
        default="deflate",
        description="Compression of the mask; zstd is quicker to read, deflate is read everywhere.",
    )
    memory_budget_mb: int = Field(
        default=448,
        ge=16,
        description="Decoded pixels held by all products of this process, MB. A product starts when its share fits; "
        "more lets decoding run further ahead and products overlap more.",
    )
    decode_threads: int = Field(
        default_factory=_cores,
        ge=1,
        description="Threads that decode JPEG 2000; more than cores do not help.",
    )
    read_ahead_tiles: int = Field(
        default=8, ge=1, description="Compressed codestream tiles read ahead of the decoder, per product."
    )
    max_in_flight: int | None = Field(
        default=None,
        ge=1,
        description="Requests in flight per model; default 2 x max_batch x instances of the model. Overload lowers it.",
    )
    products_at_once: int = Field(
        default=2,
        ge=1,
        description="Products in work at once; the second is read while the first is answered.",
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
    server_env: Path | None = Field(
        default=None, description="The local server's Python environment; default: in the user's data folder."
    )

    @property
    def memory_budget_bytes(self) -> int:
        """The ring buffers' budget in bytes."""
        return self.memory_budget_mb * 1024 * 1024


def load_settings(**flags: object) -> Settings:
    """Build the settings from flags that were given (None: not given), variables and defaults.

    Raises
    ------
    UsageError
        With the name of the flag or variable, the value and what is allowed.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"setting {name} (flag --{name.replace('_', '-')} or variable KAPPAMASK_{name.upper()}) "
            f"is {first['input']!r}: {first['msg']}"
        ) from error
