"""`config show`, `config path`, `config example`: where each value comes from, and a file to begin with."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from pydantic_core import PydanticUndefined

from kappamask_stream import cli
from kappamask_stream.cli.settings_origin import example_file, origins
from kappamask_stream.errors import UsageError
from kappamask_stream.settings import Settings, config_path, load_settings, setting_flag

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"KAPPAMASK_{name.upper()}", raising=False)
    monkeypatch.delenv("KAPPAMASK_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def write_config(text: str) -> Path:
    config_path().parent.mkdir(parents=True, exist_ok=True)
    config_path().write_text(text)
    return config_path()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command line in this process and return what it prints on stdout."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["kappamask-stream", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert ended.value.code == 0, captured.err
        return captured.out

    return run


def test_each_value_says_which_flag_variable_or_file_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config('compression = "zstd"\nmemory_budget_mb = 100\nproducts_at_once = 9\n')
    monkeypatch.setenv("KAPPAMASK_MEMORY_BUDGET_MB", "200")
    monkeypatch.setenv("kappamask_infer_timeout_s", "7")
    monkeypatch.setenv("KAPPAMASK_TRITON", "")
    found = {o.name: (o.value, o.origin) for o in origins(products_at_once=3, output=None)}
    assert list(found) == list(Settings.model_fields)
    assert found["products_at_once"] == (3, "flag --concurrency")
    assert found["memory_budget_mb"] == (200, "variable KAPPAMASK_MEMORY_BUDGET_MB")
    assert found["infer_timeout_s"] == (7.0, "variable kappamask_infer_timeout_s")
    assert found["compression"] == ("zstd", f"{path}: compression")
    assert found["triton"] == (None, "default")
    assert found["output"] == (Path(), "default")


def test_what_is_shown_is_what_a_run_would_take(monkeypatch: pytest.MonkeyPatch, command: Callable[..., str]) -> None:
    write_config('output = "s3://bucket/masks"\ns3_anonymous = true\n')
    monkeypatch.setenv("KAPPAMASK_SERVER_ENV", "/srv/env")
    shown = json.loads(command("config", "show", "--json", "--triton", "grpc://gpu:8001"))
    settings = load_settings(triton="grpc://gpu:8001")
    for name in Settings.model_fields:
        value = getattr(settings, name)
        expected = list(value) if isinstance(value, tuple) else value
        assert shown[name]["value"] == (str(value) if isinstance(value, Path) else expected), name
    assert shown["output"]["value"] == "s3://bucket/masks"
    assert shown["server_env"]["origin"] == "variable KAPPAMASK_SERVER_ENV"
    assert shown["triton"]["origin"] == "flag --triton"


def test_the_table_has_a_line_for_each_setting(command: Callable[..., str]) -> None:
    path = write_config("memory_budget_mb = 100")
    lines = command("config", "show").splitlines()
    assert [line.split()[0] for line in lines] == list(Settings.model_fields)
    (line,) = [line for line in lines if line.startswith("memory_budget_mb")]
    assert re.fullmatch(rf"memory_budget_mb +100 +{re.escape(str(path))}: memory_budget_mb", line)


def test_every_flag_of_a_setting_can_be_given_to_show() -> None:
    app: Any = typer.main.get_command(cli.build_app())
    params = {p.name: p for p in app.commands["config"].commands["show"].params}
    for name in Settings.model_fields:
        if flag := setting_flag(name):
            assert flag in params[name].opts, name
            assert not params[name].envvar, f"{name}: a variable would be taken for a flag"


def test_credentials_in_a_url_are_not_shown(monkeypatch: pytest.MonkeyPatch, command: Callable[..., str]) -> None:
    monkeypatch.setenv("KAPPAMASK_WEIGHTS_URL", "https://someone:hunter2@mirror/w/")
    assert "hunter2" not in (shown := command("config", "show"))
    assert "https://***@mirror/w/" in shown
    assert "hunter2" not in command("config", "show", "--json")


def test_a_wrong_value_is_refused_as_everywhere() -> None:
    write_config("memory_budget_mb = 1")
    with pytest.raises(UsageError, match="setting memory_budget_mb is 1"):
        origins()


def test_path_is_where_the_file_is_looked_for(command: Callable[..., str], tmp_path: Path) -> None:
    assert command("config", "path") == f"{tmp_path}/kappamask-stream/config.toml\n"


def test_the_example_is_the_defaults_when_all_is_commented_in(command: Callable[..., str]) -> None:
    text = command("config", "example")
    assert text == example_file()
    assert tomllib.loads(text) == {}, "everything is commented out"
    given = tomllib.loads(
        "\n".join(line.removeprefix("#") if re.match(r"#\w+ = ", line) else "" for line in text.splitlines())
    )
    fixed = {
        n for n, f in Settings.model_fields.items() if f.default is not None and f.default is not PydanticUndefined
    }
    assert set(given) == fixed
    write_config("\n".join(line.removeprefix("#") if re.match(r"#\w+ = ", line) else "" for line in text.splitlines()))
    loaded = load_settings()
    for name in fixed:
        assert getattr(loaded, name) == Settings.model_fields[name].default, name
    for name, field in Settings.model_fields.items():
        assert f"# {field.description}" in text
        assert f"variable KAPPAMASK_{name.upper()}" in text
