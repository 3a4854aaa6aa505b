"""OFFSET and SCALE of a product for a model: the network sees max(DN + OFFSET, 0) * SCALE. Pure numpy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from kappamask_stream.errors import ProductError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

#: DN that `full_scale` networks see as 1 / divisor.
_FULL_SCALE = 65535.0
#: What float32 can hold the inverse of.
_LEAST_UNIT, _LARGEST_UNIT = 1e-37, 1e37


def offset_scale(
    contract: ModelContract,
    *,
    offsets: Mapping[str, float],
    quantification: Mapping[str, float],
    radiometry: Literal["corrected", "km_predict"],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return OFFSET (DN) and SCALE (1/DN), each float32 ``[channels]`` in the contract's channel order.

    ``corrected`` adds the offsets of the product's metadata to reflectance bands, whatever its level.
    ``km_predict`` repeats km_predict 2.4 (FACTS.md section 1): no offset for L2A; for L1C
    (v + o) / (max_v + 2 o) with v = DN / 65535 and o = offset / 65535.

    Parameters
    ----------
    contract : the model's; `divisors`, `dn_unit` and `offset_rule` decide.
    offsets : band -> additive offset in DN as the metadata says, e.g. -1000; none means 0.
    quantification : band (incl. AOT, WVP) -> DN per unit.
    radiometry : ``corrected`` or ``km_predict``.

    Raises
    ------
    UsageError
        If km_predict's arithmetic is asked for a network that is not KappaMask's, or an unknown one for any.
    ProductError
        If a band's quantification value is missing, or a scale is not positive and finite.
    """
    if radiometry not in ("corrected", "km_predict"):
        raise UsageError(f"radiometry is {radiometry!r}: allowed is corrected or km_predict")
    if radiometry == "km_predict" and contract.family != "kappamask":
        raise UsageError(
            f"--radiometry km_predict repeats the arithmetic of KappaMask's km_predict, the model {contract.name} is "
            f"of family {contract.family}: use --radiometry corrected"
        )
    shift = np.zeros(len(contract.channels), np.float64)
    unit = np.zeros(len(contract.channels), np.float64)
    for channel, (band, divisor) in enumerate(zip(contract.channels, contract.divisors, strict=True)):
        if radiometry == "corrected":
            shift[channel] = _offset(contract, band, offsets)
            unit[channel] = _full_scale(contract, band, quantification) * divisor
        else:
            # km_predict knows offsets of L1C only, and Keras builds the first batch twice: max_v moves two times.
            shift[channel] = _offset(contract, band, offsets) if contract.level == "L1C" else 0.0
            unit[channel] = _FULL_SCALE * (divisor + 2.0 * shift[channel] / _FULL_SCALE)
        # As the server will compute with it: in float32 its inverse can be infinite, or nothing.
        if not (_LEAST_UNIT < unit[channel] < _LARGEST_UNIT and math.isfinite(shift[channel])):
            raise ProductError(
                f"{band} would be divided by {unit[channel]:g} DN (offset {offsets.get(band, 0.0):g} DN, divisor "
                f"{divisor:g}, radiometry {radiometry}): the product's offset does not fit {contract.name}"
            )
    return shift.astype(np.float32), (1.0 / unit).astype(np.float32)


def _offset(contract: ModelContract, band: str, offsets: Mapping[str, float]) -> float:
    """Return the offset in DN that the contract's rule gives a channel; AOT and WVP never have one."""
    is_reflectance = contract.offset_rule == "reflectance" and band.startswith("B")
    return float(offsets.get(band, 0.0)) if is_reflectance else 0.0


def _full_scale(contract: ModelContract, band: str, quantification: Mapping[str, float]) -> float:
    """Return the DN that a divisor of 1 stands for."""
    if contract.dn_unit == "full_scale":
        return _FULL_SCALE
    if band not in quantification:
        raise ProductError(
            f"the product's metadata gives no quantification value for {band}, which {contract.name} needs; "
            f"it gives them for {sorted(quantification)}"
        )
    return float(quantification[band])
