"""How many pixels a product and its bands may have."""

from dataclasses import dataclass, field

import pytest

from kappamask_stream.errors import ProductError
from kappamask_stream.extent import require_size, size_at


@dataclass(frozen=True)
class Told:
    sizes: dict[int, tuple[int, int]]
    name: str = "S2A_MSIL2A_X"


@dataclass(frozen=True)
class Pixels:
    height: int
    width: int = field(default=30)


def test_a_resolution_that_is_not_told_of_follows_from_the_finest_one() -> None:
    product = Told({10: (610, 600), 20: (305, 300)})
    assert size_at(product, 20) == (305, 300)
    assert size_at(product, 60) == (102, 100)


@pytest.mark.parametrize("sizes", [{10: (10981, 10980)}, {10: (65536, 65536)}, {20: (5490, 5491)}, {60: (1831, 1)}])
def test_more_than_a_tile_of_sentinel_2_has_is_refused(sizes: dict[int, tuple[int, int]]) -> None:
    (gsd_m,) = sizes
    assert size_at(Told({10: (10980, 10980)}), 60) == (1830, 1830)
    with pytest.raises(ProductError, match=rf"says \d+ x \d+ pixels of {gsd_m} m, a Sentinel-2 tile has at most"):
        size_at(Told(sizes), gsd_m)


def test_a_file_of_other_pixels_is_refused_also_where_its_resolution_is_not_told_of() -> None:
    product = Told({10: (180, 180)})
    require_size(product, "B01.jp2", "B01", 60, Pixels(30))
    with pytest.raises(ProductError, match=r"B01\.jp2 of .* has 31 x 30 pixels, the metadata says 30 x 30 for 60 m"):
        require_size(product, "B01.jp2", "B01", 60, Pixels(31))
