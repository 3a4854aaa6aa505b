"""What ``--json`` prints: every field that is promised, of the type that is promised, and nothing but JSON."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kappamask_stream import result as module
from kappamask_stream.errors import CodestreamError
from kappamask_stream.inference import BatchSizes
from kappamask_stream.result import ProductProgress, ProductResult, StageClock, peak_rss_bytes

NUMBER, TEXT, NOTHING = (int, float), str, type(None)

#: The fields that the command promises, and beside them what explains a failure, a null, or the mask's origin.
FIELDS = {
    "product": TEXT, "status": TEXT, "output": TEXT, "seconds": NUMBER,
    "tiles": int, "tiles_inferred": int, "tiles_empty": int,
    "codestream_tiles_decoded": int, "codestream_tiles_empty": int, "codestream_tiles_decoded_twice": int,
    "bytes_read": int, "tail_seconds": NUMBER, "peak_rss_bytes": int, "classes": dict, "stages": dict, "model": TEXT,
    "batch_sizes": dict,
    "quicklook": TEXT, "error": NOTHING, "exit_code": int, "batch_sizes_reason": NOTHING, "retries": int,
    "canary": NOTHING, "fingerprint": TEXT, "requests": int, "files": list, "notes": list,
}  # fmt: skip

DONE = ProductResult(
    product="S2A_X",
    status="done",
    output="masks/S2A_X/mask.tif",
    quicklook="masks/S2A_X/mask.png",
    files=("masks/S2A_X/mask.tif", "masks/S2A_X/mask.png", "masks/S2A_X/mask.pgw"),
    seconds=12.34567,
    tiles=10,
    tiles_inferred=6,
    tiles_empty=4,
    codestream_tiles_decoded=20,
    codestream_tiles_empty=3,
    bytes_read=1000,
    tail_seconds=0.12349,
    classes={"CLEAR": 1 / 3, "MISSING": 2 / 3},
    stages={"decode": 1.23456},
    model="csmask_l2a",
    batch_sizes=BatchSizes(counts={1: 2, 8: 5}),
    fingerprint="ab" * 32,
    retries=1,
)


def through_json(result: ProductResult) -> dict[str, object]:
    """Write and read again as strict JSON: no NaN, no infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = result.to_json()
    read = json.loads(json.dumps(document, allow_nan=False), parse_constant=refuse)
    assert read == document, "what a program reads is what the library returns"
    return read


def test_a_finished_product_has_every_field_of_its_type() -> None:
    read = through_json(DONE)
    assert set(read) == set(FIELDS)
    for name, kind in FIELDS.items():
        assert isinstance(read[name], kind), name
        assert not isinstance(read[name], bool), name
    assert read["classes"] == {"CLEAR": 0.333333, "MISSING": 0.666667}
    assert read["batch_sizes"] == {"1": 2, "8": 5}
    assert (read["seconds"], read["tail_seconds"], read["stages"]) == (12.346, 0.123, {"decode": 1.235})
    assert (read["output"], read["quicklook"]) == ("masks/S2A_X/mask.tif", "masks/S2A_X/mask.png")
    assert read["files"] == ["masks/S2A_X/mask.tif", "masks/S2A_X/mask.png", "masks/S2A_X/mask.pgw"]
    assert read["codestream_tiles_decoded_twice"] == 0


def test_a_server_that_does_not_tell_gives_null_and_why() -> None:
    silent = ProductResult(product="p", status="done", batch_sizes=BatchSizes(reason="statistics are restricted"))
    read = through_json(silent)
    assert (read["batch_sizes"], read["batch_sizes_reason"]) == (None, "statistics are restricted")


@pytest.mark.parametrize("status", ["skipped", "failed"])
def test_a_product_that_was_not_made_has_the_same_fields_with_nulls_and_zeros(status) -> None:
    error = CodestreamError("B02.jp2 is cut") if status == "failed" else None
    read = through_json(ProductResult(product="p", status=status, error=error))
    assert set(read) == set(FIELDS)
    assert (read["batch_sizes"], read["batch_sizes_reason"]) == (None, f"the product was {status}")
    assert read["tail_seconds"] is None
    assert (read["tiles"], read["bytes_read"], read["classes"], read["stages"]) == (0, 0, {}, {})
    assert read["files"] == []
    assert (read["error"], read["exit_code"]) == (("B02.jp2 is cut", 3) if error else (None, 0))


def test_peak_memory_counts_what_was_touched_and_does_not_fall_again() -> None:
    """In a process of its own: this one's peak may be far above what the test takes."""
    code = (
        "from kappamask_stream.result import peak_rss_bytes\n"
        "before = peak_rss_bytes()\n"
        "taken = bytearray(b'x' * 64_000_000)\n"
        "during = peak_rss_bytes()\n"
        "del taken\n"
        "print(before, during, peak_rss_bytes())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, during, after = map(int, answer.stdout.split())
    assert during - before >= 60_000_000
    assert after >= during
    assert before < 200_000_000


def test_peak_memory_without_proc_comes_from_the_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = peak_rss_bytes()
    assert expected is not None

    def absent(_: Path, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(module.Path, "read_text", absent)
    found = peak_rss_bytes()
    assert found is not None
    assert found >= expected * 0.9  # the call also counts what the process was before exec


def test_a_clock_adds_up_a_stage_over_threads_and_failures() -> None:
    clock = StageClock()
    clock.note("decode", 10.0, 11.5)
    clock.note("decode", 10.0, 10.5)
    with pytest.raises(KeyError), clock.measure("mosaic"):
        raise KeyError
    assert clock.seconds["decode"] == 2.0
    assert clock.seconds["mosaic"] >= 0


def test_a_timeline_shows_what_is_not_over_yet() -> None:
    """The report of a product is written within its last stage."""
    clock = StageClock()
    with clock.measure("read"):
        pass
    with clock.measure("close"), clock.measure("close"):
        during = clock.timeline()
    assert [len(during.spans[stage]) for stage in ("read", "close")] == [1, 2]
    assert all(end == during.seconds for _, end in during.spans["close"])
    after = clock.timeline()
    assert len(after.spans["close"]) == 2
    assert max(end for _, end in after.spans["close"]) <= after.seconds


def test_time_left_is_unknown_until_a_tile_is_done_and_finite_after() -> None:
    progress = ProductProgress(product="p", tiles_total=10)
    assert progress.seconds_left is None
    progress.tiles_done, progress.pixels_read = 5, 1_000_000
    left = progress.seconds_left
    assert left is not None
    assert 0 <= left < 10
    assert np.isfinite(progress.megapixels_per_s)
