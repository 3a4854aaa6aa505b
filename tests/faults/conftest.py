"""Fixtures of the tests of faults."""

from __future__ import annotations

from tests.faults.plant import plant
from tests.faults.queue_crew import crew, products, whole
from tests.integration.queue_servers import queue_server

__all__ = ["crew", "plant", "products", "queue_server", "whole"]
