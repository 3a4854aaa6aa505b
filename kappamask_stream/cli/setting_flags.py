"""The flags of settings, in groups, for commands that take all of a group."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from kappamask_stream.cli import options as given

#: What a command receives: by name of the setting, None where not given.
SettingFlags = Mapping[str, Any]
NO_FLAGS: SettingFlags = MappingProxyType({})

#: By name of the setting, its option as typer reads it. Other groups: `queue_options`, `worker_options`.
FlagGroup = Mapping[str, Any]
MASKING_FLAGS: FlagGroup = {
    "output": given.Output,
    "compression": given.Compression,
    "triton": given.Triton,
    "products_at_once": given.Concurrency,
    "max_in_flight": given.MaxInFlight,
    "memory_budget_mb": given.MemoryBudget,
    "processes": given.Processes,
    "shared_memory": given.SharedMemory,
    "decoder": given.Decoder,
    "priority": given.Priority,
    "s3_endpoint": given.S3Endpoint,
    "s3_region": given.S3Region,
    "s3_profile": given.S3Profile,
    "s3_anonymous": given.S3Anonymous,
    "s3_requester_pays": given.S3RequesterPays,
    "output_s3_endpoint": given.OutputS3Endpoint,
    "output_s3_region": given.OutputS3Region,
    "output_s3_profile": given.OutputS3Profile,
}


def takes_setting_flags(*groups: FlagGroup) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put groups of flags in the place of a command's parameter ``flags``, which receives those of all groups.

    Parameters
    ----------
    groups : in the order in which help shows them; a setting is in one of them.
    """
    options = {name: option for group in groups for name, option in group.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name == "flags":
                kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
                parameters += [inspect.Parameter(n, kind, default=None, annotation=t) for n, t in options.items()]
            else:
                parameters.append(parameter)

        @functools.wraps(command)
        def with_flags(**arguments: Any) -> None:
            flags = {name: arguments.pop(name) for name in options}
            command(flags=flags, **arguments)

        # What typer reads a command's parameters from.
        with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_flags

    return decorate
