"""JPEG 2000 on the GPU (nvImageCodec) against OpenJPEG on this machine's cores: the same stand-alone codestream tiles.

Pixels are compared first. Then Mpx/s in batches, with the pixels left on the GPU and with them on the host, through
the product's decoder of many threads, and beside inference: what one GPU makes in an hour that decodes and infers.
"""

from __future__ import annotations

import argparse
import os
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import torch
from bare import loop, pinned
from material import graph, tiles, write

from kappamask_stream.jp2.nvimgcodec import NvImageCodecDecoder
from server_models.torch_engine import TorchEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    Tile = tuple[bytes, int, int]

#: Of the reference product: codestream tiles that must be decoded, and tiles with data (docs/performance.md).
PRODUCT_MPX, PRODUCT_TILES = 638.0, 328


def load(path: Path) -> tuple[dict[int, list[Tile]], dict[int, list[Tile]]]:
    """Return stand-alone tiles and whole files, by resolution."""
    groups: dict[int, list[Tile]] = {}
    files: dict[int, list[Tile]] = {}
    with np.load(path) as file:
        for name in file.files:
            gsd_m, kind, height, width = name.split("_")
            target = files if kind.startswith("file") else groups
            target.setdefault(int(gsd_m), []).append((file[name].tobytes(), int(height), int(width)))
    return groups, files


def megapixels(found: list[Tile]) -> float:
    return sum(height * width for _, height, width in found) / 1e6


def rate(work: Callable[[], object], mpx: float, seconds: float) -> float:
    work()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or count < 2:
        work()
        count += 1
    return count * mpx / (time.perf_counter() - started)


def at_origin(code: bytes) -> bytes:
    """Move a stand-alone tile to (0, 0): changes how it is cut unless its place is a multiple of every precinct."""
    x1, y1, x0, y0 = struct.unpack_from(">4I", code, 8)
    return code[:8] + struct.pack(">4I", x1 - x0, y1 - y0, 0, 0) + code[24:32] + struct.pack(">2I", 0, 0) + code[40:]


def grid_at_origin(code: bytes) -> bytes:
    """Let the one tile begin at (0, 0) and end where it ends: the image's offset cuts it to its place."""
    x1, y1 = struct.unpack_from(">2I", code, 8)
    return code[:24] + struct.pack(">4I", x1, y1, 0, 0) + code[40:]


def unchanged(code: bytes) -> bytes:
    return code


def source(decoder: Any, way: Callable[[bytes], bytes] | None, code: bytes) -> Any:
    """Return what nvImageCodec decodes: the product's own way where `way` is None."""
    return decoder._source(code) if way is None else decoder._codec.CodeStream(way(code))  # noqa: SLF001


def decoded(decoder: Any, way: Callable[[bytes], bytes] | None, codes: list[bytes]) -> list[Any]:
    sources = [source(decoder, way, code) for code in codes]
    return list(decoder._decoder.decode(sources, params=decoder._parameters))  # noqa: SLF001


#: Ways to write a stand-alone tile's place: the product's (moved or framed), and three that were tried before.
WAYS = {"product": None, "unchanged": unchanged, "grid_at_origin": grid_at_origin, "at_origin": at_origin}


def exact(decoder: Any, found: list[Tile], way: Callable[[bytes], bytes] | None) -> dict[str, Any]:
    """Compare every tile with OpenJPEG's pixels."""
    images = decoded(decoder, way, [code for code, _, _ in found])
    answers = [None if image is None else np.asarray(image.cpu())[..., 0] for image in images]
    truth = [imagecodecs.jpeg2k_decode(code) for code, _, _ in found]
    none = sum(answer is None for answer in answers)
    equal = [a is not None and np.array_equal(a, t) for a, t in zip(answers, truth, strict=True)]
    worst = max((int(np.abs(a.astype(int) - t.astype(int)).max()) for a, t in zip(answers, truth, strict=True)
                 if a is not None and a.shape == t.shape), default=-1)  # fmt: skip
    unlike = [f"{h}x{w}" for ok, (_, h, w) in zip(equal, found, strict=True) if not ok][:6]
    return {
        "tiles": len(found),
        "equal": sum(equal),
        "not_decoded": none,
        "largest_difference": worst,
        "unlike": unlike,
    }


def speeds(decoder: Any, found: list[Tile], way: Callable[[bytes], bytes] | None, seconds: float) -> dict[str, Any]:
    codes, mpx, cores = [code for code, _, _ in found], megapixels(found), os.cpu_count() or 1
    figures: dict[str, Any] = {"mpx": mpx, "compressed_bytes_per_px": sum(map(len, codes)) / mpx / 1e6}
    with ThreadPoolExecutor(cores) as pool:
        work = [code for _ in range(max(1, 3 * cores // len(codes))) for code in codes]
        many = mpx * len(work) / len(codes)
        figures[f"openjpeg_{cores}_threads_mpx_s"] = rate(
            lambda: list(pool.map(lambda code: imagecodecs.jpeg2k_decode(code, numthreads=1), work)), many, seconds
        )
    for batch in (1, 8, 32, 96):
        some = (codes * (batch // len(codes) + 1))[:batch]
        size = sum(found[i % len(found)][1] * found[i % len(found)][2] for i in range(batch)) / 1e6

        def on_gpu(some: list[bytes] = some) -> None:
            decoded(decoder, way, some)
            torch.cuda.synchronize()

        figures[f"gpu_batch_{batch}_mpx_s"] = rate(on_gpu, size, seconds)
    figures["gpu_to_host_batch_32_mpx_s"] = rate(
        lambda: [np.asarray(image.cpu()) for image in decoded(decoder, way, (codes * 32)[:32])],
        megapixels((found * 32)[:32]),
        seconds,
    )
    with ThreadPoolExecutor(64 if way is None else 1) as pool:
        work = (found * 256)[:192]
        if way is None:
            figures["gpu_decoder_64_threads_mpx_s"] = rate(
                lambda: list(pool.map(lambda t: decoder.decode(t[0], height=t[1], width=t[2], name="tile"), work)),
                megapixels(work), seconds,
            )  # fmt: skip
    return figures


def together(
    decoder: Any, found: list[Tile], way: Callable[[bytes], bytes] | None, arguments: argparse.Namespace
) -> dict[str, float]:
    """Decode and infer at the same time; return both rates, and each alone."""
    model = graph("DeepLabv3Plus", "fp16", arguments.weights)
    engine = TorchEngine(model, batches=[16], lanes=2)
    source = pinned(tiles(engine.contract, arguments.tiles, 32))
    codes = ([code for code, _, _ in found] * 32)[:32]
    mpx = megapixels((found * 32)[:32])
    ending, done = threading.Event(), [0.0]

    def decode() -> None:
        while not ending.is_set():
            decoded(decoder, way, codes)
            done[0] += mpx

    figures = {"inference_alone_tiles_s": loop(engine, source, 16, arguments.seconds)}
    thread = threading.Thread(target=decode)
    started = time.perf_counter()
    thread.start()
    figures["inference_beside_decoding_tiles_s"] = loop(engine, source, 16, 2 * arguments.seconds)
    ending.set()
    thread.join()
    figures["decoding_beside_inference_mpx_s"] = done[0] / (time.perf_counter() - started)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codestreams", type=Path, required=True, help="from codestreams.py")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--tiles", type=Path)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    groups, files = load(arguments.codestreams)
    decoder = NvImageCodecDecoder()
    figures: dict[str, Any] = {"nvimgcodec": decoder._codec.__version__, "groups": {}}  # noqa: SLF001
    ways: dict[int, str] = {}
    for gsd_m, found in groups.items():
        row: dict[str, Any] = {name: exact(decoder, found, way) for name, way in WAYS.items()}
        best = max(WAYS, key=lambda name: (row[name]["equal"], -row[name]["not_decoded"]))
        row["timed"] = ways[gsd_m] = best
        print(gsd_m, row, flush=True)
        try:
            row |= speeds(decoder, found, WAYS[best], arguments.seconds)
        except Exception as error:  # noqa: BLE001 - the figures so far count
            row["failed"] = str(error)[:500]
        figures["groups"][f"{gsd_m} m"] = row
        print(row, flush=True)
        write(arguments.json, "jpeg2000", {"jpeg2000": figures})
    for gsd_m, found in files.items():
        figures["groups"][f"{gsd_m} m"]["whole_files"] = whole = exact(decoder, found, unchanged)
        whole["gpu_mpx_s"] = rate(lambda found=found: decoded(decoder, unchanged, [code for code, _, _ in found]),
                                  megapixels(found), arguments.seconds)  # fmt: skip
        print(gsd_m, "whole files", whole, flush=True)
    figures["together"] = together(decoder, groups[10], WAYS[ways[10]], arguments)
    both = figures["together"]
    decode_mpx_s = both["decoding_beside_inference_mpx_s"]
    figures["products_per_hour_decoding_and_inferring"] = 3600 / max(
        PRODUCT_MPX / decode_mpx_s, PRODUCT_TILES / both["inference_beside_decoding_tiles_s"]
    )
    print(both, figures["products_per_hour_decoding_and_inferring"], flush=True)
    write(arguments.json, "jpeg2000", {"jpeg2000": figures})


if __name__ == "__main__":
    main()
