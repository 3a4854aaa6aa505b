"""The contract: a faithful JSON document that refuses what contradicts itself."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import ContractError


def test_json_round_trip(csmask_contract: ModelContract) -> None:
    assert ModelContract.from_json(csmask_contract.to_json()) == csmask_contract


def test_digest_depends_on_every_field(csmask_contract: ModelContract) -> None:
    document = json.loads(csmask_contract.to_json())
    document["weights_sha256"] = "0" * 64
    assert ModelContract.from_json(json.dumps(document)).sha256() != csmask_contract.sha256()


def test_unknown_field_of_a_newer_minor_version_is_ignored(csmask_contract: ModelContract) -> None:
    document = json.loads(csmask_contract.to_json()) | {"schema_version": [1, 7], "invented_later": True}
    assert ModelContract.from_json(json.dumps(document)).channels == csmask_contract.channels


def test_a_contract_of_schema_1_0_has_no_measured_agreement(csmask_contract: ModelContract) -> None:
    document = json.loads(csmask_contract.to_json()) | {"schema_version": [1, 0]}
    del document["measured_agreement"]
    assert ModelContract.from_json(json.dumps(document)).measured_agreement is None


def test_files_at_half_resolution_are_another_tensor(csmask_contract: ModelContract) -> None:
    """A client that does not know the field would look for DN_20M twice, and find that the model has no such pair."""
    first = replace(csmask_contract.inputs[0], bands=("B02", "B03", "B04", "B8A"), file_gsd_m=10)
    second = replace(csmask_contract.inputs[0], bands=("B11", "B12"))
    reduced = replace(csmask_contract, inputs=(first, second))
    assert [group.tensor for group in reduced.inputs] == ["DN_20M_OF_10M", "DN_20M"]
    assert ModelContract.from_json(reduced.to_json()) == reduced
    assert reduced.sha256() != csmask_contract.sha256()


def test_documents_of_before_that_field_keep_their_digest(csmask_contract: ModelContract) -> None:
    older = json.dumps(json.loads(csmask_contract.to_json()) | {"schema_version": [1, 1]}, sort_keys=True)
    assert "file_gsd_m" not in older
    read = ModelContract.from_json(older)
    assert read.inputs[0].file_gsd_m is None
    assert json.dumps(json.loads(read.to_json()), sort_keys=True) == older


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"bands": ("B11", "B12")}, r"two groups of \['DN_20M', 'DN_20M'\] have one name"),
        ({"bands": ("B02",), "file_gsd_m": 10}, r"\[\('B02', 20\)\] stand in two groups"),
        ({"bands": ("B11", "B12"), "file_gsd_m": 5}, "files of 5 m read at half .* pixels of 10 m, the group has 20 m"),
    ],
)
def test_groups_that_contradict_each_other(csmask_contract: ModelContract, second: dict, message: str) -> None:
    first = csmask_contract.inputs[0]
    bands = tuple(band for band in first.bands if band not in second["bands"] or band == "B02")
    groups = (replace(first, bands=bands), replace(first, **second))
    channels = tuple(band for group in groups for band in group.bands)
    with pytest.raises(ContractError, match=message):
        replace(csmask_contract, inputs=groups, channels=channels, divisors=(1.0,) * len(channels))


def test_another_major_version_is_refused_with_both(csmask_contract: ModelContract) -> None:
    document = json.loads(csmask_contract.to_json()) | {"schema_version": [2, 0]}
    with pytest.raises(ContractError, match=r"2\.0, this client reads 1\.x"):
        ModelContract.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ["B02"]}, "channels"),
        ({"divisors": [1.0]}, "6 channels but 1 divisors"),
        ({"margin": 128}, "margin 128 does not fit tile size 256"),
        ({"nodata_class": 9}, r"no class is named for values \[9\]"),
        ({"probability_classes": [4, 1]}, "ascending"),
        ({"tile_size": -1}, "between 1 and 65536"),
        ({"classes": 3}, "cannot be read"),
        ({"name": None}, "name: None is not a string"),
        ({"dn_unit": "furlongs"}, "furlongs"),
        ({"min_agreement": 1.2}, "1.2 is not between 0 and 1"),
        ({"min_agreement": None}, "cannot be read"),
        ({"measured_agreement": float("nan")}, "nan is not between 0 and 1"),
    ],
)
def test_contradictions_are_refused(csmask_contract: ModelContract, change: dict, message: str) -> None:
    document = json.loads(csmask_contract.to_json()) | change
    with pytest.raises(ContractError, match=message):
        ModelContract.from_json(json.dumps(document))


def test_a_missing_field_is_refused(csmask_contract: ModelContract) -> None:
    for name in json.loads(csmask_contract.to_json()):
        if name in {"min_agreement", "measured_agreement"}:  # have defaults
            continue
        document = json.loads(csmask_contract.to_json())
        del document[name]
        with pytest.raises(ContractError):
            ModelContract.from_json(json.dumps(document))


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)).map(
        json.dumps
    )
)
def test_nonsense_never_ends_in_a_foreign_exception(text: str) -> None:
    with pytest.raises(ContractError):
        ModelContract.from_json(text)


def test_differences_name_both_sides(csmask_contract: ModelContract) -> None:
    other = ModelContract.from_json(json.dumps(json.loads(csmask_contract.to_json()) | {"max_batch": 3}))
    assert csmask_contract.differences(other) == [f"max_batch: {csmask_contract.max_batch} != 3"]
