"""One model feeds flags, variables, the configuration file and the documented table."""

import re
from pathlib import Path

import pytest
import typer

from kappamask_stream.cli import build_app
from kappamask_stream.errors import UsageError
from kappamask_stream.settings import Settings, config_path, load_settings, settings_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"KAPPAMASK_{name.upper()}", raising=False)
    monkeypatch.delenv("KAPPAMASK_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def write_config(text: str) -> Path:
    config_path().parent.mkdir(parents=True, exist_ok=True)
    config_path().write_text(text)
    return config_path()


# --- which source wins -----------------------------------------------------------------------------------------------


def test_flags_win_over_variables_variables_over_the_file_the_file_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings().memory_budget_mb == 448
    write_config("memory_budget_mb = 100\ninfer_timeout_s = 7")
    assert load_settings().memory_budget_mb == 100
    monkeypatch.setenv("KAPPAMASK_MEMORY_BUDGET_MB", "200")
    assert load_settings().memory_budget_mb == 200
    assert load_settings(memory_budget_mb=300).memory_budget_mb == 300
    assert load_settings(memory_budget_mb=None).memory_budget_mb == 200
    assert load_settings(memory_budget_mb=300).infer_timeout_s == 7.0
    assert load_settings(memory_budget_mb=300).memory_budget_bytes == 300 * 2**20


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAPPAMASK_TRITON", "")
    monkeypatch.setenv("KAPPAMASK_DECODE_THREADS", "")
    monkeypatch.setenv("KAPPAMASK_CONFIG", "")
    settings = load_settings()
    assert settings.triton is None
    assert settings.decode_threads >= 1


def test_home_is_the_home_folder_in_files_and_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_config('output = "~/masks"')
    monkeypatch.setenv("KAPPAMASK_SERVER_ENV", "~/server")
    settings = load_settings()
    assert (settings.output, settings.server_env) == (tmp_path / "masks", tmp_path / "server")


def test_the_configuration_file_is_where_the_desktop_standard_or_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert config_path() == tmp_path / "config" / "kappamask-stream" / "config.toml"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert config_path() == Path("/home/someone/.config/kappamask-stream/config.toml")
    named = tmp_path / "mine.toml"
    named.write_text('compression = "zstd"')
    monkeypatch.setenv("KAPPAMASK_CONFIG", str(named))
    assert load_settings().compression == "zstd"


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bad"),
    [("memory_budget_mb", "15"), ("memory_budget_mb", "much"), ("compression", "lzw"), ("max_in_flight", "0"), ("infer_timeout_s", "nan")],
)  # fmt: skip
def test_a_bad_value_names_setting_source_value_and_both_ways_to_change_it(
    name: str, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag, variable = f"--{name.replace('_', '-')}", f"KAPPAMASK_{name.upper()}"
    flag_or_variable = f"variable {variable}" if name == "infer_timeout_s" else f"flag {flag} or variable {variable}"
    with pytest.raises(
        UsageError, match=rf"setting {name} is '?{bad}'? \(from flag .*\): .*change it with {flag_or_variable}$"
    ):
        load_settings(**{name: bad})
    path = write_config(f'{name} = "{bad}"')
    with pytest.raises(UsageError, match=rf"\(from {re.escape(str(path))}\): .*change it with {flag_or_variable}$"):
        load_settings()
    monkeypatch.setenv(variable, bad)
    with pytest.raises(UsageError, match=rf"setting {name} is '{bad}' \(from variable {variable}\)") as error:
        load_settings()
    assert error.value.exit_code == 2


def test_a_setting_that_is_none_in_the_file_is_named_with_those_there_are() -> None:
    path = write_config("memory_budget = 100")
    with pytest.raises(
        UsageError, match=rf"{re.escape(str(path))} sets memory_budget, which is no setting; .*memory_budget_mb"
    ):
        load_settings()


@pytest.mark.parametrize("content", [b"output = ", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_named(content: bytes) -> None:
    path = write_config("")
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"configuration file {re.escape(str(path))} cannot be read: "):
        load_settings()


def test_a_file_that_the_variable_names_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAPPAMASK_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(UsageError, match=r"KAPPAMASK_CONFIG names .*absent\.toml, which is no file"):
        load_settings()


# --- what is documented ----------------------------------------------------------------------------------------------


def test_the_documented_table_is_the_models() -> None:
    assert settings_table() in (ROOT / "docs" / "settings.md").read_text()


def test_every_setting_is_described_and_carries_its_unit() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if field.annotation in (float, int) and name not in {
            "decode_threads",
            "read_ahead_tiles",
            "products_at_once",
            "tile_attempts",
        }:
            assert name.endswith(("_s", "_mb")), name


def test_flags_in_the_table_are_those_of_the_command_line_and_say_the_same_defaults() -> None:
    app = typer.main.get_command(build_app())
    run = {param.name: param for param in app.commands["run"].params}  # type: ignore[attr-defined]
    install = {param.name: param for param in app.commands["server"].commands["install"].params}  # type: ignore[attr-defined]
    documented = {
        name: field.json_schema_extra["flag"]  # type: ignore[index]
        for name, field in Settings.model_fields.items()
        if "flag" in (field.json_schema_extra or {})
    }
    fetch = {param.name: param for param in app.commands["models"].commands["fetch"].params}  # type: ignore[attr-defined]
    assert documented.pop("server_env") in install["env"].opts
    assert documented.pop("weights_url") in fetch["url"].opts
    assert set(documented) == set(run) & set(Settings.model_fields)
    for name, flag in documented.items():
        assert flag in run[name].opts
        assert run[name].default is None, f"{flag}: a default of its own would hide variable and file"
        default = Settings.model_fields[name].default
        if default is not None and default is not False:  # an option that is off says so by not being given
            assert f"[default: {default}]" in run[name].help
