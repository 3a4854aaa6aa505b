"""One model feeds flags, variables, the configuration file and the documented table."""

import re
from pathlib import Path
from typing import Any, get_args

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


#: Numbers that count something, which their names say.
COUNTS = {
    "decode_threads", "read_ahead_tiles", "processes", "products_at_once", "tile_attempts", "max_in_flight", "s3_connections",
    "s3_requests_per_minute", "poison_in_a_row", "pending_most",
}  # fmt: skip


def test_every_setting_is_described_and_carries_its_unit() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        is_number = {int, float} & {field.annotation, *get_args(field.annotation)}
        if is_number and name not in COUNTS:
            assert name.endswith(("_s", "_mb")), name


#: Commands that take flags of settings, under the settings' own names.
TAKE_FLAGS = [("run",), ("worker",), ("submit",), ("queue", "stats"), ("queue", "redrive"), ("config", "show")]


def params_of(*path: str) -> dict[str, Any]:
    command: Any = typer.main.get_command(build_app())
    for name in path:
        command = command.commands[name]
    return {param.name: param for param in command.params}


def test_flags_in_the_table_are_those_of_the_command_line_and_say_the_same_defaults() -> None:
    documented = {
        name: field.json_schema_extra["flag"]  # type: ignore[index]
        for name, field in Settings.model_fields.items()
        if "flag" in (field.json_schema_extra or {})
    }
    assert documented.pop("server_env") in params_of("server", "install")["env"].opts
    assert documented.pop("weights_url") in params_of("models", "fetch")["url"].opts
    found = set()
    for path in TAKE_FLAGS:
        params = params_of(*path)
        for name in params.keys() & Settings.model_fields.keys() - {"server_env", "weights_url"}:
            flag, param = documented[name], params[name]
            found.add(name)
            assert flag in param.opts
            assert param.default is None, f"{path} {flag}: a default of its own would hide variable and file"
            default = Settings.model_fields[name].default
            if default not in (None, False, ()):  # an option that is off says so by not being given
                assert f"[default: {default}]" in param.help
    assert found == set(documented)


def test_the_worker_takes_all_flags_of_settings_but_those_of_installations() -> None:
    own = params_of("worker").keys() & Settings.model_fields.keys()
    with_flag = {name for name, field in Settings.model_fields.items() if "flag" in (field.json_schema_extra or {})}
    assert own == with_flag - {"server_env", "weights_url"}
