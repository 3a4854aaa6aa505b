"""A mask pixel has no data where all bands under it are 0."""

import numpy as np

from kappamask_stream.contract import ModelContract
from kappamask_stream.nodata import nodata_mask


def tensors_of(contract: ModelContract) -> dict[str, np.ndarray]:
    return {g.tensor: np.zeros((len(g.bands), g.tile, g.tile), np.uint16) for g in contract.inputs}


def test_a_tile_full_of_data_has_no_mask(csmask_contract: ModelContract) -> None:
    tensors = tensors_of(csmask_contract)
    tensors["DN_20M"][2] = 1
    assert nodata_mask(tensors, csmask_contract) is None


def test_one_band_with_data_is_enough(csmask_contract: ModelContract) -> None:
    tensors = tensors_of(csmask_contract)
    tensors["DN_20M"][5, 10, 20] = 7
    mask = nodata_mask(tensors, csmask_contract)
    assert mask is not None
    assert not mask[10, 20]
    assert mask.sum() == mask.size - 1


def test_coarse_pixels_cover_their_mask_pixels(kappamask_contract: ModelContract) -> None:
    tensors = tensors_of(kappamask_contract)
    tensors["DN_60M"][0, 84, 0] = 1  # the last row of 60 m also answers for the two rows of 10 m beyond it
    tensors["DN_20M"][0, 3, 3] = 1
    mask = nodata_mask(tensors, kappamask_contract)
    assert mask is not None
    expected = np.ones((512, 512), bool)
    expected[504:512, 0:6] = False
    expected[6:8, 6:8] = False
    np.testing.assert_array_equal(mask, expected)


def test_fine_pixels_are_joined(l1c_csmask_contract: ModelContract) -> None:
    tensors = tensors_of(l1c_csmask_contract)
    tensors["DN_10M"][0, 5, 9] = 1
    mask = nodata_mask(tensors, l1c_csmask_contract)
    assert mask is not None
    assert not mask[2, 4]
    assert mask.sum() == mask.size - 1
