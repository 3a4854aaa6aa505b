"""Fixtures shared by all stages: where the real data lies, and what is skipped where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with real Sentinel-2 data and golden tiles, beside the checkout; absent on a user's machine."""
    default = Path(__file__).resolve().parents[1].parent / "shared"
    path = Path(os.environ.get("KAPPAMASK_SHARED", default))
    if not (path / "data").is_dir():
        pytest.skip(f"no real data at {path} (set KAPPAMASK_SHARED)")
    return path
