"""Run in the server's environment: weights files, sound and hostile, and what building from each says.

python weights_files.py FOLDER [fuzz COUNT]

Makes each file with h5py in FOLDER and builds a network from it in a child process. Prints JSON per case: the model's
name or the error's class and message, and by how much the child's memory grew, MiB. ``fuzz`` damages a sound file in
COUNT ways instead and prints the outcomes.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import h5py
import weights_names
import weights_sound
import weights_storage
import weights_unfit
from weights_writing import CASES, UNET, unet, write

from kappamask_stream.errors import KappaMaskError
from server_models import kappamask
from server_models.hdf5_weights import read_keras_weights

#: They fill CASES.
MODULES = (weights_sound, weights_unfit, weights_names, weights_storage)

#: Seconds after which a child that hangs is ended.
PATIENCE_S = 60


def outcome(path: Path, model: str | None) -> dict[str, Any]:
    """Build a model (only read the file if None) in a child process."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        signal.alarm(PATIENCE_S)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = _attempt(path, model)
        found["grown_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"error": f"ended by signal {os.WTERMSIG(status)}", "message": ""}


def _attempt(path: Path, model: str | None) -> dict[str, Any]:
    try:
        if model is None:
            return {"model": repr(read_keras_weights(path))}
        return {"model": kappamask.build(model, path, path.with_suffix(".onnx")).name}
    except KappaMaskError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:  # noqa: BLE001 - whatever else comes out is what the test is about
        return {"error": type(error).__name__, "message": traceback.format_exc()}


def fuzz(folder: Path, count: int) -> list[dict[str, Any]]:
    """Damage one to eight bytes of a small sound file: in its structure mostly, which is most of it."""
    sound = folder / "sound.hdf5"
    with h5py.File(sound, "w") as file:
        write(file, {name: values for name, values in unet().items() if values.size < 200})
    content, found = sound.read_bytes(), []
    for seed in range(count):
        rng, damaged = random.Random(seed), bytearray(content)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        path = folder / "damaged.hdf5"
        path.write_bytes(damaged)
        found.append(outcome(path, None) | {"seed": seed})
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    if sys.argv[2:]:
        json.dump(fuzz(folder, int(sys.argv[3])), sys.stdout)
        return
    report = {}
    for name, make in CASES.items():
        path = folder / f"{name}.hdf5"
        model = make(path) or UNET
        report[name] = outcome(path, model) | {"exploded": path.with_suffix(".exploded").exists()}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
