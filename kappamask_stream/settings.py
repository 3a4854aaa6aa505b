"""All limits and places in one model: flags, ``KAPPAMASK_*`` variables, a configuration file and defaults meet here.

Every limit has a currency in its name; the description says what a larger or smaller value does. `settings_table`
is the documentation: docs/settings.md holds what it returns.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from kappamask_stream.errors import UsageError
from kappamask_stream.plain_text import is_plain
from kappamask_stream.settings_masking import MaskingSettings
from kappamask_stream.settings_worker import WorkerSettings

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_PREFIX = "KAPPAMASK_"
_CONFIG_VARIABLE = "KAPPAMASK_CONFIG"
#: Bytes of a configuration file: with every setting and its meaning it has a tenth of that.
_LONGEST_FILE = 1 << 16
#: A key of many parts, a.b.c, takes the square of their number to read; no setting's has more than one. Dots are
#: counted between what divides keys and values, wherever that is; those of comments are not.
_MOST_DOTS = 100
_COMMENT, _DIVIDERS = re.compile(rb"^[ \t]*#[^\n]*", re.MULTILINE), re.compile(rb"[=,{}\[\]\n]")
#: Characters of a value.
_LONGEST_TEXT = 1 << 12
#: Characters of a value in a message.
_SHOWN = 200
_LARGEST = 2**31 - 1


def config_path() -> Path:
    """Return the configuration file's place; it need not be there unless KAPPAMASK_CONFIG names it."""
    if named := os.environ.get(_CONFIG_VARIABLE):
        return Path(named)
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - never raises
    return Path(folder) / "kappamask-stream" / "config.toml"


class _ConfigFile(TomlConfigSettingsSource):
    """The configuration file, within bounds."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        with file_path.open("rb") as file:
            return parsed_file(file.read(_LONGEST_FILE + 1))


def parsed_file(data: bytes) -> dict[str, Any]:
    """Read a configuration file's content, as far as it is TOML: names and values are not looked at.

    Raises
    ------
    ValueError
        If it is none, is longer than a configuration file with all settings may be, or nested too deeply.
    """
    if len(data) > _LONGEST_FILE:
        raise ValueError(f"it has more than {_LONGEST_FILE} bytes: it is no configuration file")
    dots = max(piece.count(b".") for piece in _DIVIDERS.split(_COMMENT.sub(b"", data)))
    if dots > _MOST_DOTS:
        raise ValueError(f"a name has {dots} dots, at most {_MOST_DOTS} are read: it is no setting's")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class Settings(WorkerSettings, MaskingSettings):
    """Settings of one process; flags override variables, variables the configuration file, the file defaults."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (get_args(kind) or (kind,)):
            raise ValueError("true and false are no values of it")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _within_bounds(cls, value: object) -> object:
        """Refuse what no system call takes, or no line shows: numbers beyond 31 bits, text with control characters."""
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError(f"at most {_LARGEST} is taken")
        values = value if isinstance(value, tuple) else (value,)
        texts = [str(text) for text in values if isinstance(text, str | Path)]
        if not all(is_plain(text) and len(text) <= _LONGEST_TEXT for text in texts):
            raise ValueError(f"a text of at most {_LONGEST_TEXT} printable characters is expected")
        return value

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
        return init_settings, env_settings, _ConfigFile(settings_cls, config_path())


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
        allowed = first["msg"].removeprefix("Value error, ")
        raise UsageError(_complaint(str(first["loc"][0]), first["input"], allowed, given)) from error
    except (OSError, ValueError) as error:  # no TOML, no UTF-8, or what Python makes no number of
        raise UsageError(f"the configuration file {path} cannot be read: {error}") from error


def _complaint(name: str, value: object, allowed: str, given: dict[str, object]) -> str:
    """Say which setting is wrong and where it comes from."""
    variable, path = _PREFIX + name.upper(), config_path()
    if name not in Settings.model_fields:
        there = ", ".join(Settings.model_fields)
        return f"{path} sets {ascii(name)[1:-1][:_SHOWN]}, which is no setting; there are {there}"
    flag = _shown(name).get("flag")
    if name in given:
        where = f"from flag {flag or name}"
    elif os.environ.get(variable):
        where = f"from variable {variable}"
    else:
        where = f"from {path}"
    change = f"flag {flag} or variable {variable}" if flag else f"variable {variable}"
    return f"setting {name} is {repr(value)[:_SHOWN]} ({where}): {allowed}; change it with {change}"


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
