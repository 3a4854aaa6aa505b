"""All limits and places in one model: flags, ``KAPPAMASK_*`` variables, a configuration file and defaults meet here.

Every limit has a currency in its name; the description says what a larger or smaller value does. `settings_table`
is the documentation: docs/settings.md holds what it returns.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from kappamask_stream.errors import UsageError
from kappamask_stream.settings_masking import MaskingSettings
from kappamask_stream.settings_worker import WorkerSettings

_PREFIX = "KAPPAMASK_"
_CONFIG_VARIABLE = "KAPPAMASK_CONFIG"


def config_path() -> Path:
    """Return the configuration file's place; it need not be there unless KAPPAMASK_CONFIG names it."""
    if named := os.environ.get(_CONFIG_VARIABLE):
        return Path(named)
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - never raises
    return Path(folder) / "kappamask-stream" / "config.toml"


class Settings(WorkerSettings, MaskingSettings):
    """Settings of one process; flags override variables, variables the configuration file, the file defaults."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: flags, variables, configuration file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_path())


def load_settings(**flags: object) -> Settings:
    """Build the settings from flags that were given (None: not given), variables, configuration file and defaults.

    Raises
    ------
    UsageError
        With the setting, the flag, variable or file it came from, the value and what is allowed; or if the
        configuration file cannot be read.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    path = config_path()
    if _CONFIG_VARIABLE in os.environ and os.environ[_CONFIG_VARIABLE] and not path.is_file():
        raise UsageError(f"{_CONFIG_VARIABLE} names {path}, which is no file: correct or unset it")
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(_complaint(str(first["loc"][0]), first["input"], first["msg"], given)) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the configuration file {path} cannot be read: {error}") from error


def _complaint(name: str, value: object, allowed: str, given: dict[str, object]) -> str:
    """Say which setting is wrong and where it comes from."""
    variable, path = _PREFIX + name.upper(), config_path()
    if name not in Settings.model_fields:
        return f"{path} sets {name}, which is no setting; there are {', '.join(Settings.model_fields)}"
    flag = _shown(name).get("flag")
    if name in given:
        where = f"from flag {flag or name}"
    elif os.environ.get(variable):
        where = f"from variable {variable}"
    else:
        where = f"from {path}"
    change = f"flag {flag} or variable {variable}" if flag else f"variable {variable}"
    return f"setting {name} is {value!r} ({where}): {allowed}; change it with {change}"


def _shown(name: str) -> dict[str, Any]:
    extra = Settings.model_fields[name].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def setting_flag(name: str) -> str | None:
    """Return the flag that sets a setting, e.g. ``--output``; None where no command has one."""
    return _shown(name).get("flag")


def settings_table() -> str:
    """Return all settings as a Markdown table."""
    lines = ["| setting | flag | variable | default | meaning |", "| --- | --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        flag, default = _shown(name).get("flag"), _shown(name).get("default")
        if default is None:
            default = "none" if field.default is None else f"`{field.default}`"
        flag_text = f"`{flag}`" if flag else ""
        lines.append(f"| `{name}` | {flag_text} | `{_PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"
