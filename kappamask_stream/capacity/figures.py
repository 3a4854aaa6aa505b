"""What measurements say of one product, each figure with the place that it comes from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Times in seconds, bytes, counts: what is beyond is no measurement.
_LEAST, _MOST = 1e-9, 1e18


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured number.

    Attributes
    ----------
    value : exactly as it is written in its file.
    source : file and place in it, for people.
    """

    value: Fraction
    source: str

    @classmethod
    def of(cls, value: object, source: str) -> Figure | None:
        """Take a number of a JSON file; None for null.

        Raises
        ------
        InputError
            If it is no number from 10^-9 to 10^18.
        """
        if value is None:
            return None
        # JSON's true is no number; Python's reader lets NaN and Infinity pass.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _LEAST <= value <= _MOST:
            raise InputError(f"{source} is {str(value)[:40]}, a number from {_LEAST:g} to {_MOST:g} is expected")
        return cls(value=Fraction(repr(value)), source=source)


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network figures are of; None where a file does not say.

    Attributes
    ----------
    family, level, architecture : ``kappamask``, ``l2a``, ``deeplabv3plus``: parts of a model's name. Precision is left
        out: the client's work does not depend on it.
    """

    family: str | None = None
    level: str | None = None
    architecture: str | None = None

    @classmethod
    def of_model(cls, model: str) -> Network:
        """Take a name ``<family>_<level>_<architecture>[_<precision>]`` apart; any other name is a family's."""
        parts = model.lower().split("_")
        if len(parts) < 2 or parts[1] not in {"l1c", "l2a"}:  # noqa: PLR2004 - family and level
            return cls(family=model.lower())
        return cls(family=parts[0], level=parts[1], architecture=parts[2] if len(parts) > 2 else None)  # noqa: PLR2004

    def __str__(self) -> str:
        return " ".join(part for part in (self.family, self.level, self.architecture) if part) or "any network"


@dataclass(frozen=True, kw_only=True)
class BenchFigures:
    """What one or several measurements say; None where they say nothing.

    Attributes
    ----------
    network : that was measured.
    gpu : the GPU's name.
    tiles, tiles_inferred : of the product; those that hold data and went to the server.
    client_cpu_s : CPU seconds of the client (read, decode, cut, assemble, write) for the product.
    client_cores : that the client had.
    client_rss_bytes : the client's largest resident memory.
    server_cpu_s : CPU seconds of a server without a GPU for the product.
    server_cores : that it had.
    server_rss_bytes : its resident memory.
    gpu_tiles_per_s : tiles a second of one GPU through Triton, with the client's requests coming over the network.
    bytes_read, requests : of the product, and how many requests to a store that took.
    request_bytes, answer_bytes : per tile, to and from the server.
    bytes_written : files of the product's mask.
    """

    network: Network = Network()
    gpu: str | None = None
    tiles: Figure | None = None
    tiles_inferred: Figure | None = None
    client_cpu_s: Figure | None = None
    client_cores: Figure | None = None
    client_rss_bytes: Figure | None = None
    server_cpu_s: Figure | None = None
    server_cores: Figure | None = None
    server_rss_bytes: Figure | None = None
    gpu_tiles_per_s: Figure | None = None
    bytes_read: Figure | None = None
    requests: Figure | None = None
    request_bytes: Figure | None = None
    answer_bytes: Figure | None = None
    bytes_written: Figure | None = None

    def figures(self) -> dict[str, Figure]:
        """Return those that are known, by name."""
        known = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: value for name, value in known if isinstance(value, Figure)}


def joined(parts: Sequence[BenchFigures]) -> BenchFigures:
    """Put figures of several files together; where two have the same, the first counts.

    Raises
    ------
    InputError
        If they are of different networks.
    """
    taken: dict[str, Any] = {}
    for part in parts:
        _require_same(taken.get("network", Network()), part.network)
        for item in fields(part):
            if item.name == "network":
                taken["network"] = _joined_network(taken.get("network", Network()), part.network)
            elif taken.get(item.name) is None:
                taken[item.name] = getattr(part, item.name)
    return BenchFigures(**taken)


def _require_same(one: Network, other: Network) -> None:
    for item in fields(Network):
        mine, theirs = getattr(one, item.name), getattr(other, item.name)
        if mine and theirs and mine != theirs:
            raise InputError(
                f"the files are of different networks, {one} and {other}: their figures cannot be put together, give "
                "files of one network"
            )


def _joined_network(one: Network, other: Network) -> Network:
    return Network(
        **{item.name: getattr(one, item.name) or getattr(other, item.name) for item in fields(Network)},
    )
