"""Fixtures of the tests of faults."""

from __future__ import annotations

from tests.faults.plant import plant

__all__ = ["plant"]
