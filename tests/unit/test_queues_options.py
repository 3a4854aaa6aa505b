"""Flags of settings in groups: a command takes those of its groups, and each is the flag that the setting names."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kappamask_stream.cli.queue_options import QUEUE_FLAGS
from kappamask_stream.cli.setting_flags import MASKING_FLAGS, NO_FLAGS, SettingFlags, takes_setting_flags
from kappamask_stream.settings import Settings, setting_flag

GROUPS = (MASKING_FLAGS, QUEUE_FLAGS)


@pytest.mark.parametrize("group", GROUPS, ids=["masking", "queue"])
def test_a_groups_flags_are_those_that_the_settings_name(group: dict[str, Any]) -> None:
    app = typer.Typer()

    @app.command()
    @takes_setting_flags(group)
    def command(flags: SettingFlags = NO_FLAGS) -> None:
        pass

    params = {param.name: param for param in typer.main.get_command(app).params}
    for name in group:
        assert name in Settings.model_fields
        assert setting_flag(name) in params[name].opts
        assert params[name].default is None, "a default of its own would hide variable and file"


def test_no_setting_is_in_two_groups() -> None:
    names = [name for group in GROUPS for name in group]
    assert len(names) == len(set(names))


def test_a_command_gets_the_flags_of_all_its_groups_in_their_place() -> None:
    app, got = typer.Typer(), []

    @app.command()
    @takes_setting_flags(QUEUE_FLAGS, MASKING_FLAGS)
    def command(first: str = "", flags: SettingFlags = NO_FLAGS, *, last: bool = False) -> None:
        got.append((first, dict(flags), last))

    names = [param.name for param in typer.main.get_command(app).params][: len(QUEUE_FLAGS) + 2]
    assert names == ["first", *QUEUE_FLAGS, next(iter(MASKING_FLAGS))]
    words = [
        "--queue",
        "https://host/1/q",
        "--queue-region",
        "eu-west-1",
        "--concurrency",
        "3",
        "--first",
        "x",
        "--last",
    ]
    assert CliRunner().invoke(app, words).exit_code == 0
    ((first, flags, last),) = got
    assert (first, last) == ("x", True)
    given = {name: value for name, value in flags.items() if value is not None}
    assert given == {"queue": "https://host/1/q", "queue_region": "eu-west-1", "products_at_once": 3}
    assert set(flags) == {*MASKING_FLAGS, *QUEUE_FLAGS}
