"""What `models build` prints: where the model is, on stdout, and what is remarkable about it, on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.cli.models import build
from kappamask_stream.server import ServerEnvironment

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_what_is_remarkable_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    events = [{"event": "progress", "text": "null_l2a has no canary: why"}, {"event": "built", "path": "/srv/null_l2a"}]
    monkeypatch.setattr(ServerEnvironment, "require", lambda _: None)
    monkeypatch.setattr(ServerEnvironment, "call", lambda *_: events)
    build("null_l2a", env=tmp_path, repository=tmp_path)
    assert capsys.readouterr() == ("/srv/null_l2a\n", "null_l2a has no canary: why\n")
