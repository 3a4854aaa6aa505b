"""A TCP proxy before a server that lets a client connect and ask, and holds back its first tile until told.

The canary, which a client sends on connecting, passes: the first tile comes after its answer.
"""

from __future__ import annotations

from tests.integration.fault_proxy import FaultProxy

#: Bytes: asking for a model's configuration and statistics takes less, one tile takes more.
_ENOUGH = 64 * 1024
#: Bytes: the answers to all that take less than the labels of one tile.
_ANSWERED = 48 * 1024


class HoldingProxy(FaultProxy):
    """Use as a context manager; `held` is set when a tile is held back."""

    def __init__(self, server: str) -> None:
        super().__init__(server)
        self.hold_after, self.hold_from = _ENOUGH, _ANSWERED

    def cut(self) -> int:
        """End all connections and take no new ones, as a server that dies."""
        self.refuses = True
        self.let_go()
        return super().cut()
