"""The Item of a model: against the schema of MLM 1.4.0, and the extension's own classes for 1.5.2."""

import base64
from dataclasses import replace

import pytest
from stac_model.schema import SCHEMA_URI, MLModelProperties

from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import ContractError
from kappamask_stream.stac import model_file, model_item
from tests.unit.stac_schemas import NEAREST, validate


@pytest.fixture(params=["csmask_contract", "l1c_csmask_contract", "kappamask_contract"])
def contract(request: pytest.FixtureRequest) -> ModelContract:
    return request.getfixturevalue(request.param)


def test_a_model_is_valid(contract: ModelContract) -> None:
    item = model_item(contract)
    assert SCHEMA_URI in item["stac_extensions"]
    assert SCHEMA_URI in NEAREST  # by the schema of 1.4.0, and by the package of 1.5.2 below
    validate(item)


def test_the_extensions_own_package_reads_it(contract: ModelContract) -> None:
    """`stac-model` 0.6.1 is the reference implementation of MLM 1.5.2: it refuses unknown tasks, shapes and types."""
    read = MLModelProperties.model_validate(model_item(contract)["properties"])
    assert read.name == contract.name
    pixels = [entry for entry in read.input if entry.name.startswith("DN_")]
    assert [(entry.name, list(entry.bands)) for entry in pixels] == [(g.tensor, list(g.bands)) for g in contract.inputs]
    assert [list(entry.input.shape) for entry in pixels] == [
        [-1, len(g.bands), g.tile, g.tile] for g in contract.inputs
    ]
    labels, probabilities = read.output
    assert [c.value for c in labels.classes] == [c.value for c in contract.classes]
    assert [c.value for c in probabilities.classes] == list(contract.probability_classes)


def test_all_bands_are_described(contract: ModelContract) -> None:
    """MLM: names of ``mlm:input`` refer to ``bands`` of the core."""
    properties = model_item(contract)["properties"]
    used = {band for entry in properties["mlm:input"] for band in entry["bands"]}
    assert used == {band["name"] for band in properties["bands"]} == set(contract.channels)


def test_the_weights_are_named_by_their_digest(contract: ModelContract) -> None:
    item = model_item(contract)
    (asset,) = item["assets"].values()
    assert asset["file:checksum"] == "1220" + "ab" * 32
    scheme, _, digest = asset["href"].partition(";")
    assert scheme == "ni:///sha-256"
    assert base64.urlsafe_b64decode(digest + "=") == bytes.fromhex("ab" * 32)


def test_an_address_of_the_weights_is_used(csmask_contract: ModelContract) -> None:
    known = replace(csmask_contract, weights_source="as KappaZeta publishes at http://host/model_weights; no licence")
    assert model_item(known)["assets"]["weights"]["href"] == "http://host/model_weights"


def test_a_model_without_weights(csmask_contract: ModelContract) -> None:
    item = model_item(replace(csmask_contract, weights_sha256="", weights_source="none: a threshold"))
    assert item["id"] == "test_l2a"
    assert "file:checksum" not in item["assets"]["weights"]
    validate(item)


def test_how_it_is_served_is_not_told(csmask_contract: ModelContract) -> None:
    assert model_item(replace(csmask_contract, max_batch=64, instances=4)) == model_item(csmask_contract)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "x", "a" * 200, "line\nbreak"])
def test_names_that_are_no_file_names_are_refused(csmask_contract: ModelContract, name: str) -> None:
    with pytest.raises(ContractError, match="part of a file name"):
        model_file(replace(csmask_contract, name=name))
