"""What is fetched when a few bytes are asked for from afar: few requests, and little in vain."""

from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.jp2.read_ahead import ReadAhead


def fetched(size: int, asked: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ask for ranges of a file of `size` bytes; checks that each is answered rightly."""
    file, ahead, fetches = bytes(i * 7 % 251 for i in range(size)), ReadAhead(size), []
    for start, length in asked:
        if (wanted := ahead.fetch(start, length)) is not None:
            offset, count = wanted
            assert 0 <= offset <= start
            assert start + length <= offset + count <= size
            fetches.append(wanted)
            ahead.keep(offset, file[offset : offset + count])
        assert ahead.take(start, length) == file[start : start + length]
    return fetches


def test_boxes_main_header_and_first_tile_part_are_one_request() -> None:
    assert fetched(10**6, [(0, 12), (12, 16), (32, 16), (2366, 16), (2374, 4096), (2563, 12)]) == [(0, 8192)]


def test_behind_large_tile_parts_twelve_bytes_are_read() -> None:
    walk = [(2563 + 30_000 * i, 12) for i in range(1, 9)]
    assert fetched(10**6, [(0, 12), *walk]) == [(0, 8192), *walk]


def test_a_series_of_small_tile_parts_takes_few_requests() -> None:
    walk = [(100_000 + 150 * i, 12) for i in range(100)]
    fetches = fetched(10**6, [(0, 12), *walk])
    assert fetches[:3] == [(0, 8192), (100_000, 12), (100_150, 512)]
    assert len(fetches) <= 10


def test_a_small_file_is_fetched_no_further_than_its_end() -> None:
    assert fetched(3000, [(0, 12), (2990, 10)]) == [(0, 3000)]


@given(
    steps=st.lists(st.sampled_from([120, 144, 200, 300, 900, 5000, 60_000]), max_size=200),
    size=st.integers(100_000, 200_000),
)
def test_no_more_is_fetched_in_vain_than_was_of_use(steps: list[int], size: int) -> None:
    asked, at = [(0, 12)], 2600
    for step in steps:
        if at + 12 <= size:
            asked.append((at, 12))
        at += step
    fetches = fetched(size, asked)
    series = sum(step for step in steps if step <= 1100)
    heads = 12 * len(asked)
    # For each series twice its length, and 512 bytes at its end.
    ends = sum(1 for here, there in zip(steps, [*steps[1:], 10**6], strict=False) if here <= 1100 < there)
    assert sum(length for _, length in fetches) <= 8192 + heads + 2 * series + 512 * ends + 4096
