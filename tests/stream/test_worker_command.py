"""What flags of `kappamask-stream worker` ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from kappamask_stream.cli import worker as module
from kappamask_stream.errors import UsageError
from kappamask_stream.feed.types import ProductRef
from kappamask_stream.names import parse_product_name
from kappamask_stream.settings import Settings
from kappamask_stream.stac import StacExtra

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.worker.service import Service

EUROPE = "0,40,20,60"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Service]:
    """Return what a command line asks a worker for, without one."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"KAPPAMASK_{name.upper()}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    services: list[Service] = []
    monkeypatch.setattr(module, "_serve", services.append)
    app: Any = typer.Typer()
    app.command()(module.worker)

    def run(*arguments: str) -> Service:
        ended = CliRunner().invoke(app, list(arguments), standalone_mode=False)
        if ended.exception is not None:
            raise ended.exception
        return services.pop()

    return run


def test_without_flags_settings_are_what_they_are_elsewhere(asked: Callable[..., Service]) -> None:
    service = asked()
    assert service.settings == Settings(priority="backlog")
    assert service.levels == ("L1C", "L2A")
    assert (service.choice.model, service.max_messages, service.until_empty) == ("kappamask", None, False)
    assert service.order.extras == [StacExtra], "by its Item a finished mask is recognised"


def test_flags_arrive(asked: Callable[..., Service]) -> None:
    service = asked(
        "--queue", "http://h/1/q", "--level", "L2A", "--tile", "29UNU", "--grace-s", "7", "--no-spot", "--pending-most",
        "9", "--allow", "default,s3://mine", "--emit", "arn:aws:sns:eu-west-1:123456789012:t", "--listen", "none",
        "--log-format", "json", "--triton", "grpcs://t:1", "--triton-ca", "ca.pem", "--model", "csmask", "--png",
        "--verify", "--source", "cdse", "--dilate", "CLOUD=100", "--max-messages", "3", "--until-empty",
        "--concurrency", "5",
    )  # fmt: skip
    settings, order = service.settings, service.order
    assert (settings.queue, settings.grace_s, settings.spot, settings.pending_most) == ("http://h/1/q", 7.0, False, 9)
    assert settings.allow == ("default", "s3://mine")
    assert (settings.emit, settings.listen, settings.log_format) == (
        "arn:aws:sns:eu-west-1:123456789012:t", "none", "json",
    )  # fmt: skip
    assert (settings.triton, str(settings.triton_ca), settings.products_at_once) == ("grpcs://t:1", "ca.pem", 5)
    assert (order.source, order.verify_checksums, order.options.dilate) == ("cdse", True, (("CLOUD", 100.0),))
    assert (len(order.extras), order.extras[-1]) == (2, StacExtra)
    assert (service.levels, service.max_messages, service.until_empty) == (("L2A",), 3, True)
    assert service.wanted.tiles == {"29UNU"}


def test_of_an_area_only_products_are_wanted_that_meet_it(asked: Callable[..., Service]) -> None:
    """Others could never be done."""
    berlin, toulouse, guiana = (
        ProductRef(
            kind="name", name=parse_product_name(f"S2A_MSIL2A_20260701T095031_N0511_R079_{tile}_20260701T131212")
        )
        for tile in ("T33UUU", "T31TCJ", "T22NBM")
    )
    outside = "it lies outside the area that is masked (--aoi)"
    service = asked("--aoi", EUROPE)
    assert service.order.options.aoi is not None
    assert [service.wanted.reason(ref) for ref in (berlin, toulouse, guiana)] == [None, None, outside]
    both = asked("--aoi", EUROPE, "--within", "10,0,30,60").wanted
    assert [both.reason(ref) for ref in (berlin, toulouse)] == [None, "it lies outside the area (--within)"]
    assert asked("--aoi", EUROPE, "--within=-60,0,-40,60").wanted.reason(guiana) == outside


def test_what_excludes_each_other_is_refused(asked: Callable[..., Service]) -> None:
    with pytest.raises(UsageError, match="--radiometry km_predict is KappaMask's"):
        asked("--model", "csmask", "--radiometry", "km_predict")
    with pytest.raises(UsageError, match="--weights"):
        asked("--model", "csmask", "--weights", __file__)
