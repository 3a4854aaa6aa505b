"""The verdict where no product was masked through the real network: what the levels tell by themselves. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.bench.phrases import client_limit, more_cores_clause
from kappamask_stream.bench.types import Verdict
from kappamask_stream.bench.wording import counted, duration, number, percent

if TYPE_CHECKING:
    from kappamask_stream.bench.facts import Facts
    from kappamask_stream.bench.types import Limit


def levels_apart(facts: Facts) -> Verdict:
    """Say what the levels tell that were measured apart, without products through the real network."""
    cpu, client_s, served = facts.client_cpu_s, facts.client_s, facts.server_products_per_s
    if client_s is not None and served is not None:
        return _compared(facts, client_s, 1 / served)
    said = []
    if facts.server_tiles_per_s is not None:
        enough = "" if served is None else f", enough for {number(3600 * served)} products an hour"
        said.append(f"the server alone answers {number(facts.server_tiles_per_s)} tiles/s{enough}")
    if cpu is not None and client_s is not None:
        said.append(
            f"the client alone takes {number(cpu)} CPU s a product, so {counted(facts.cores, 'core')} mask at most "
            f"{number(3600 / client_s)} an hour"
        )
    what = "; ".join(said) or "no level was measured"
    return Verdict(limit="unknown", text=f"Which of both is the limit was not measured: {what}.")


def _compared(facts: Facts, client_s: float, server_s: float) -> Verdict:
    """Compare the seconds of a product that client and server need by themselves."""
    if facts.shares_cores:
        limit: Limit = "compute" if server_s >= client_s else client_limit(facts)
        both = client_s + server_s
        text = (
            f"{limit}-bound, by both levels apart: server and client share {counted(facts.cores, 'core')}; of "
            f"{duration(both)} a product the server takes {percent(server_s / both)}, the client "
            f"{percent(client_s / both)}, which is {number(3600 / both)} products an hour."
        )
        return Verdict(limit=limit, text=text)
    if server_s >= client_s:
        text = (
            f"compute-bound, by both levels apart: the server can do {number(3600 / server_s)} products an hour, "
            f"{counted(facts.cores, 'core')} of the client {number(3600 / client_s)}."
        )
        return Verdict(limit="compute", text=text)
    limit = client_limit(facts)
    text = (
        f"{limit}-bound, by both levels apart: {counted(facts.cores, 'core')} of the client can do "
        f"{number(3600 / client_s)} products an hour, the server {number(3600 / server_s)}, so it would be idle "
        f"{percent(1 - server_s / client_s)} of the time{more_cores_clause(facts)}."
    )
    return Verdict(limit=limit, text=text)
