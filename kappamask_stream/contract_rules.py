"""What a contract may not say: what contradicts itself, and what no client could work with.

Pure; standard library only.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kappamask_stream.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kappamask_stream.contract import ModelContract

#: What a contract may ask of a client, far beyond what networks need: bytes of a tile's pixels, tiles at once.
_MOST_TILE_BYTES = 512 << 20
_MOST_AT_ONCE = 1 << 14
#: Of divisors: their inverses, times the largest DN, are sent as float32.
_SMALLEST_DIVISOR, _LARGEST_DIVISOR = 1e-9, 1e9


def require_consistent(contract: ModelContract) -> None:
    """Return where a contract holds together.

    Raises
    ------
    ContractError
        With the two values that disagree.
    """
    for complaints in (_of_channels, _of_sizes, _of_groups, _of_classes):
        for complaint in complaints(contract):
            raise ContractError(f"contract of {contract.name}: {complaint}")


def _of_channels(contract: ModelContract) -> Iterator[str]:
    read = sorted(band for group in contract.inputs for band in group.bands)
    if read != sorted(contract.channels):
        yield f"the inputs hold {read}, the channels {contract.channels}"
    if len(contract.divisors) != len(contract.channels):
        yield f"{len(contract.channels)} channels but {len(contract.divisors)} divisors"
    unfit = [divisor for divisor in contract.divisors if not _SMALLEST_DIVISOR <= divisor <= _LARGEST_DIVISOR]
    if unfit:
        yield f"a divisor is {unfit[0]:g}, a number from {_SMALLEST_DIVISOR:g} to {_LARGEST_DIVISOR:g} is expected"


def _of_groups(contract: ModelContract) -> Iterator[str]:
    read_as = Counter((band, group.gsd_m) for group in contract.inputs for band in group.bands)
    twice = sorted(entry for entry, times in read_as.items() if times > 1)
    if twice or len({group.tensor for group in contract.inputs}) < len(contract.inputs):
        names = [group.tensor for group in contract.inputs]
        yield f"bands {twice} stand in two groups, or two groups of {names} have one name"
    for group in contract.inputs:
        if group.file_gsd_m is not None and 2 * group.file_gsd_m != group.gsd_m:
            yield (
                f"files of {group.file_gsd_m} m read at half resolution have pixels of {2 * group.file_gsd_m} m, the "
                f"group has {group.gsd_m} m"
            )
        if group.stride * group.gsd_m != contract.stride * contract.gsd_m:
            yield (
                f"{group.tensor} moves {group.stride * group.gsd_m} m a tile, the mask "
                f"{contract.stride * contract.gsd_m} m"
            )
        if group.tile < group.stride:
            yield f"{group.tensor} has tiles of {group.tile} pixels, {group.stride} apart: some would never be read"


def _of_sizes(contract: ModelContract) -> Iterator[str]:
    if not 0 <= 2 * contract.margin < contract.tile_size:
        yield f"margin {contract.margin} does not fit tile size {contract.tile_size}"
    most = max(contract.tile_bytes, contract.tile_size**2 * max(1, len(contract.probability_classes)))
    if most > _MOST_TILE_BYTES:
        yield f"a tile has {most} bytes, at most {_MOST_TILE_BYTES} are taken"
    if contract.max_batch * contract.instances > _MOST_AT_ONCE:
        yield (
            f"{contract.instances} instances take {contract.max_batch} tiles each, at most {_MOST_AT_ONCE} tiles at "
            "once are believed"
        )


def _of_classes(contract: ModelContract) -> Iterator[str]:
    # By name as well: shares, legends and `--dilate` go by it, and would make one class of two.
    values, names = {c.value for c in contract.classes}, {c.name for c in contract.classes}
    if min(len(values), len(names)) < len(contract.classes):
        yield f"{len(contract.classes)} classes have {len(values)} values and {len(names)} names"
    missing = ({contract.nodata_class} | set(contract.probability_classes)) - values
    if missing:
        yield f"no class is named for values {sorted(missing)}"
    if list(contract.probability_classes) != sorted(set(contract.probability_classes)):
        yield "probability classes are not ascending"
