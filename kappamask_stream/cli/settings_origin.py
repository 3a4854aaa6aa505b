"""Where each setting's value comes from, and a configuration file to begin with."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from kappamask_stream.settings import Settings, config_path, load_settings, setting_flag

_PREFIX = "KAPPAMASK_"
#: Variables that are no settings: the configuration file's place, and what a checkout's tests and benchmarks take.
_OTHERS = ("AUDIT_ENV", "CONFIG", "COMMIT", "SCREENSHOTS", "SHARED", "STAC_SCHEMAS", "STORES_ENV", "TORCH_PYTHON")
#: What Kubernetes sets in every container for a service of a name that begins like ours.
_OF_A_SERVICE = re.compile(r"(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_\w+)?)$")


@dataclass(frozen=True, kw_only=True)
class SettingOrigin:
    """One setting.

    Attributes
    ----------
    name : in the configuration file.
    value : what counts; None where nothing is set.
    origin : in words: ``flag --output``, ``variable KAPPAMASK_OUTPUT``, a file and its key, ``default``.
    """

    name: str
    value: Any
    origin: str


def origins(**flags: object) -> list[SettingOrigin]:
    """Return all settings with their values and where these come from.

    Parameters
    ----------
    flags : by name of the setting; None: not given.

    Raises
    ------
    UsageError
        As `load_settings`: if a value is not allowed, or the file cannot be read.
    """
    settings = load_settings(**flags)
    given = {name for name, value in flags.items() if value is not None}
    # pydantic takes a variable in any case, and one without content for none.
    variables = {name.upper(): name for name, value in os.environ.items() if value}
    path = config_path()
    in_file = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def origin(name: str) -> str:
        if name in given:
            return f"flag {setting_flag(name) or name}"
        if variable := variables.get(f"{_PREFIX}{name.upper()}"):
            return f"variable {variable}"
        return f"{path}: {name}" if name in in_file else "default"

    return [
        SettingOrigin(name=name, value=getattr(settings, name), origin=origin(name)) for name in Settings.model_fields
    ]


def unknown_variables() -> list[str]:
    """Return a warning for each variable that looks like one of a setting and is none."""
    settings = [name.upper() for name in Settings.model_fields]
    warnings = []
    for variable, value in sorted(os.environ.items()):
        name = variable.upper().removeprefix(_PREFIX)
        is_ours = variable.upper().startswith(_PREFIX) and value
        if not is_ours or name in settings or name in _OTHERS or _OF_A_SERVICE.search(name):
            continue
        similar = difflib.get_close_matches(name, settings, 1, cutoff=0.75)
        meant = f"did you mean {_PREFIX}{similar[0]}?" if similar else "`kappamask-stream config show` lists them"
        warnings.append(f"variable {variable} is no setting and has no effect: {meant}")
    return warnings


def example_file() -> str:
    """Return a configuration file (TOML) with all settings, commented out, at their defaults."""
    lines = [
        "# Settings of kappamask-stream. Those that are commented out have their defaults.",
        "# Flags override KAPPAMASK_* variables, variables override this file.",
        f"# It is read from {config_path()}",
    ]
    for name, field in Settings.model_fields.items():
        flag = setting_flag(name)
        ways = f"variable {_PREFIX}{name.upper()}" + (f", flag {flag}" if flag else "")
        lines += ["", f"# {field.description}", f"# ({ways})", _assignment(name, field.default)]
    return "\n".join(lines) + "\n"


def _assignment(name: str, default: object) -> str:
    """Write a default as TOML; where there is none, or another place knows it, say so instead."""
    if default is None or default is PydanticUndefined:
        return f"# {name} has no fixed default"
    # JSON's texts, numbers and booleans are TOML's, too.
    return f"#{name} = {json.dumps(str(default) if isinstance(default, str | Path) else default)}"
