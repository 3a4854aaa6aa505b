"""The contract: a faithful JSON document that refuses what contradicts itself."""

import json

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
        ({"name": None}, "name is not a string"),
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
