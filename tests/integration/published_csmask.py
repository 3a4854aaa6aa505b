"""Run in the server's environment: ukis-csmask's published network, untouched, through onnxruntime.

python published_csmask.py LEVEL IN.npz OUT.npz

IN holds `reflectance`, float32 [N, 6, 256, 256], not normalised; OUT `probabilities`, float32 [N, 3, 256, 256], in the
network's own order: clear, cloud, cloud shadow. Normalisation and softmax as ukis_csmask/mask.py has them.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main() -> None:
    level, given, wanted = sys.argv[1:]
    package = Path(importlib.util.find_spec("ukis_csmask").submodule_search_locations[0])
    weights = package / f"model_6b_{level.lower()}.onnx"
    mean, deviation = json.loads(weights.with_suffix(".json").read_text())["data"]["dataset_statistics"]["img"]
    session = onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"])
    answers = []
    for tile in np.load(given)["reflectance"]:
        image = np.moveaxis(tile, 0, -1).copy()  # rows, columns, bands: as the package takes images
        image -= mean
        image /= deviation
        (logits,) = session.run(None, {session.get_inputs()[0].name: np.moveaxis(image, -1, 0)[np.newaxis]})
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        answers.append((shifted / shifted.sum(axis=1, keepdims=True))[0])
    np.savez(wanted, probabilities=np.stack(answers))


if __name__ == "__main__":
    main()
