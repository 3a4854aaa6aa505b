"""Areas that cross themselves are mended up to a bound: beyond it a text of 3 KB took minutes."""

from __future__ import annotations

import math
import time

import pytest
import shapely

from kappamask_stream.aoi.parse import parse_aoi
from kappamask_stream.errors import UsageError


def star(points: int, step: int) -> str:
    """Return a ring that joins every `step`-th of so many points on a circle: points * (step - 1) crossings."""
    angles = [2 * math.pi * (number * step % points) / points for number in range(points)]
    ring = [f"{10 + math.cos(angle):.9f} {50 + math.sin(angle):.9f}" for angle in (*angles, angles[0])]
    return f"(({','.join(ring)}))"


def test_an_outline_with_many_crossings_is_mended_up_to_a_thousand() -> None:
    assert shapely.area(parse_aoi(f"POLYGON{star(101, 10)}").geometry) > 0.1
    with pytest.raises(UsageError, match=r"a polygon of 101 sides that cross in 101\d places or more, at most 1000"):
        parse_aoi(f"POLYGON{star(101, 11)}")


def test_crossings_of_all_parts_count() -> None:
    parts = star(101, 10), star(101, 2)
    assert not parse_aoi(f"MULTIPOLYGON({star(101, 10)})").geometry.is_empty
    with pytest.raises(UsageError, match=r"of 101 sides that cross in 101\d places or more"):
        parse_aoi(f"MULTIPOLYGON({','.join(parts)})")


def test_an_outline_of_many_vertices_that_is_nonsense_is_refused_at_once() -> None:
    begin = time.process_time()
    with pytest.raises(UsageError, match="put its vertices in order, or simplify"):
        parse_aoi(f"POLYGON{star(3_001, 1_500)}")
    assert time.process_time() - begin < 5, "without the bound it does not end"


def test_many_vertices_and_few_crossings_are_an_area() -> None:
    saw = [f"{number / 1e4:.4f} {50 + number % 2 / 100}" for number in range(20_000)]
    text = f"POLYGON(({','.join(saw)},1.9999 49,0.5 50.5,0 49,{saw[0]}))"
    assert not shapely.is_valid(shapely.from_wkt(text))
    assert shapely.area(parse_aoi(text).geometry) > 0.5
