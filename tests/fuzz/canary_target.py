"""The known answer in a contract, packed by whoever deployed the model: `kappamask_stream.canary.known_labels`."""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace

import numpy as np

from kappamask_stream.canary import RECIPE, compare, compare_likeliest, known_labels
from kappamask_stream.contract import BandGroup, KnownAnswer, MaskClass, ModelContract
from kappamask_stream.errors import ContractError

#: A contract takes 256 KB of it.
LONGEST = 1 << 15
_SIZE = 32
_CONTRACT = ModelContract(
    name="m_l2a", family="m", level="L2A", architecture="m", precision="f32", gsd_m=20, tile_size=_SIZE, margin=4,
    inputs=(BandGroup(gsd_m=20, bands=("B02",), tile=_SIZE, stride=24),), channels=("B02",), divisors=(1.0,),
    dn_unit="quantification", offset_rule="reflectance",
    classes=tuple(MaskClass(value=v, name=f"C{v}", colour=(v, v, v)) for v in (0, 1, 4, 5)), nodata_class=5,
    probability_classes=(1, 4), suffix="XX", max_batch=1, instances=1, weights_sha256="0" * 64, weights_source="invented",
)  # fmt: skip


def _packed(data: bytes) -> bytes:
    return base64.b64encode(zlib.compress(data, 9))


def seeds() -> list[bytes]:
    """Return sound answers, and ones that are too long, too short, of no class, or not packed at all."""
    half = bytes([1]) * (_SIZE * _SIZE // 2) + bytes([4]) * (_SIZE * _SIZE // 2)
    sound = [_packed(half), _packed(half[: _SIZE * _SIZE // 2] + bytes([255]) * (_SIZE * _SIZE // 2))]
    broken = [half + b"\1", half[:-1], bytes([7]) * len(half), bytes([255]) * len(half), bytes(1 << 20), b""]
    return [*sound, *map(_packed, broken), _packed(half)[:-8], b"", b"%", base64.b64encode(b"no zlib"), b"\xff\xfe"]


def large() -> dict[str, bytes]:
    """Return answers near the limit of 256 KB, which inflate a thousandfold."""
    rng = np.random.default_rng(1)
    return {
        "180 MB of zeros": _packed(bytes(180 << 20)),
        "noise": _packed(rng.bytes(190_000)),
        "no base64": b"?" * (1 << 18),
    }


def one_input(data: bytes) -> None:
    """Unpack an answer: it is refused, or is a whole tile of known classes that agrees with itself."""
    contract = replace(_CONTRACT, canary=KnownAnswer(recipe=RECIPE, labels=data.decode("latin-1")))
    try:
        known = known_labels(contract)
    except ContractError:
        return
    assert known is not None
    assert (known.shape, known.dtype) == ((_SIZE, _SIZE), np.uint8)
    assert set(np.unique(known).tolist()) <= {0, 1, 4, 5, 255}
    assert compare(contract, known, known).agreement == 1.0
    certain = np.stack([np.where(known == value, 255, 0) for value in contract.probability_classes]).astype(np.uint8)
    found = compare_likeliest(contract, certain, known)
    assert found is None or found.agreement == 1.0
