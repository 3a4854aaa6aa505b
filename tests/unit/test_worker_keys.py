"""Where masks go: what decides the pixels decides the folder, and nothing else does."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.aoi import parse_aoi
from kappamask_stream.errors import ContractError
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.output import OutputPlan
from kappamask_stream.worker.keys import place_of, variant_of
from tests.stream.stepping import Bucket, StepPlace
from tests.unit.mask_jobs import make_product

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract

AREA = parse_aoi("-7,55,-6,56")


def test_a_folder_is_named_by_model_and_eight_digits(csmask_contract: ModelContract) -> None:
    name = variant_of(csmask_contract, MaskOptions())
    assert re.fullmatch(r"test_l2a_[0-9a-f]{8}", name)
    assert variant_of(csmask_contract, MaskOptions()) == name


@pytest.mark.parametrize(
    "other",
    [
        {"radiometry": "km_predict"}, {"mosaic": "blend"}, {"dilate": (("CLOUD", 200.0),)},
        {"dilate": (("CLOUD", 100.0),)}, {"aoi": AREA},
    ],
    ids=str,
)  # fmt: skip
def test_what_decides_the_pixels_decides_the_folder(csmask_contract: ModelContract, other: dict[str, Any]) -> None:
    assert variant_of(csmask_contract, MaskOptions(**other)) != variant_of(csmask_contract, MaskOptions())


@pytest.mark.parametrize("other", [{"compression": "zstd"}, {"overwrite": True}, {"shared": True}], ids=str)
def test_nothing_else_does(csmask_contract: ModelContract, other: dict[str, Any]) -> None:
    assert variant_of(csmask_contract, MaskOptions(**other)) == variant_of(csmask_contract, MaskOptions())


def test_of_a_contract_all_but_how_it_is_served_counts(csmask_contract: ModelContract) -> None:
    name = variant_of(csmask_contract, MaskOptions())
    assert variant_of(replace(csmask_contract, max_batch=64, instances=7), MaskOptions()) == name
    for other in ({"weights_sha256": "cd" * 32}, {"margin": 10, "tile_size": 224}, {"divisors": (2.0,) * 6}):
        assert variant_of(replace(csmask_contract, **other), MaskOptions()) != name  # type: ignore[arg-type]


def test_dilations_order_counts(csmask_contract: ModelContract) -> None:
    grown = (("CLOUD", 200.0), ("CLOUD_SHADOW", 100.0))
    names = {variant_of(csmask_contract, MaskOptions(dilate=order)) for order in (grown, grown[::-1])}
    assert len(names) == 2


def test_it_is_the_fingerprint_without_the_product(csmask_contract: ModelContract) -> None:
    """Whatever changes a fingerprint for one product changes the folder: neither may know something the other does not."""
    product, place = make_product(csmask_contract), StepPlace(Bucket(), "P")
    chosen = [
        MaskOptions(radiometry=radiometry, mosaic=mosaic, dilate=dilate, aoi=aoi)  # type: ignore[arg-type]
        for radiometry in ("corrected", "km_predict")
        for mosaic in ("crop", "blend")
        for dilate in ((), (("CLOUD", 200.0),))
        for aoi in (None, AREA)
    ]
    fingerprints = {OutputPlan.of(product, csmask_contract, options, place).fingerprint for options in chosen}
    assert len(fingerprints) == len({variant_of(csmask_contract, options) for options in chosen}) == len(chosen)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "Ä", "a" * 200, ".hidden", "a\nb"])
def test_a_model_whose_name_is_no_folder_is_refused(csmask_contract: ModelContract, name: str) -> None:
    with pytest.raises(ContractError, match="cannot be part of a file name"):
        variant_of(replace(csmask_contract, name=name), MaskOptions())


@pytest.mark.parametrize(
    ("output", "place"),
    [
        ("s3://bucket", "s3://bucket/m_1"), ("s3://bucket/", "s3://bucket/m_1"), ("s3://bucket/a/b/", "s3://bucket/a/b/m_1"),
        (Path("/data/masks"), "/data/masks/m_1"), ("masks", "masks/m_1"), (Path(), "./m_1"), ("/", "/m_1"),
    ],
)  # fmt: skip
def test_folders_and_prefixes(output: str | Path, place: str) -> None:
    assert place_of(output, "m_1") == place
