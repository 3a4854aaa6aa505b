"""Inputs grow by whole pieces, by any order of magnitude, and no longer than they may. Without atheris."""

from __future__ import annotations

import random

from tests.fuzz.growth import grown

_MOST = 1 << 16


def test_pieces_are_repeated_up_to_the_most() -> None:
    data = b'<r><a b="1">9</a><a b="2">8</a></r>'
    made = [grown(data, random.Random(seed), _MOST) for seed in range(2000)]
    assert all(len(data) < len(one) <= _MOST for one in made)
    assert sum(len(one) > _MOST // 2 for one in made) > 20
    assert sum(len(one) < 10 * len(data) for one in made) > 500
    assert any(one.count(b'<a b="1">9</a>') > 1000 and one.endswith(b"</r>") for one in made)


def test_what_cannot_grow_stays() -> None:
    for data in (b"", bytes(_MOST), bytes(_MOST + 1)):
        assert grown(data, random.Random(1), _MOST) == data
    for seed in range(200):
        assert len(grown(b"x", random.Random(seed), 3)) <= 3
