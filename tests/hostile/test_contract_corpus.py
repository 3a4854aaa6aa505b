"""Contracts of a server that one should not believe: refused in words, before anything is allocated or named after them."""

from __future__ import annotations

import json
import math
import re
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import ContractError
from kappamask_stream.inference.model_infer import ANSWER_ROOM
from kappamask_stream.inference.window import InFlightWindow
from kappamask_stream.stac.model import model_item
from kappamask_stream.stac.vocabulary import classes as stac_classes

if TYPE_CHECKING:
    from collections.abc import Callable

_STRANGE: tuple[Any, ...] = (
    None, True, False, -1, 0.5, 2**63, 10**400, math.inf, -math.inf, math.nan, "", "1", "../x", "a\nb", "\x1b[2J", "x" * 10**5,
    [], [[]], [None], {}, {"a": 1}, [0] * 10**5,
)  # fmt: skip


def refused(text: str) -> str:
    tracemalloc.start()
    try:
        with pytest.raises(ContractError) as caught:
            ModelContract.from_json(text)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 2000
    return said


def changed(contract: ModelContract, **fields: Any) -> str:
    return json.dumps(json.loads(contract.to_json()) | fields)


def test_whatever_a_field_holds_is_refused_or_harmless(csmask_contract: ModelContract) -> None:
    document = json.loads(csmask_contract.to_json())
    refusals = 0
    for name in document:
        for value in _STRANGE:
            try:
                read = ModelContract.from_json(json.dumps(document | {name: value}))
            except ContractError as caught:
                error = caught
            else:
                assert _is_harmless(name, getattr(read, name)), (name, value)
                continue
            refusals += 1
            assert str(error).isprintable()
            assert len(str(error)) < 2000
    assert refusals > 0.75 * len(document) * len(_STRANGE)


def _is_harmless(name: str, value: Any) -> bool:
    """Of what is taken: a text that may stand in a message or a path, a share, no list entries, none where it may be."""
    if isinstance(value, str):
        is_name = ".." not in value and value != ""
        return value.isprintable() and len(value) <= 2000 and (name not in {"name", "suffix"} or is_name)
    return value in (None, (), True) or 0 <= value <= 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tile_size": 0}, "tile_size: 0 is not between 1 and 65536"),
        ({"tile_size": 10**9}, "tile_size: 1000000000 is not between 1 and 65536"),
        ({"tile_size": True}, "tile_size: True is not a whole number"),
        ({"tile_size": 256.5}, "tile_size: 256.5 is not a whole number"),
        ({"max_batch": math.inf}, "max_batch: inf is not a whole number"),
        ({"max_batch": 1e300}, "max_batch: 1e\\+300 is not between 1 and 65536"),
        ({"schema_version": [1.5, 0]}, "1.5 is not a whole number"),
        ({"margin": 128}, "margin 128 does not fit tile size 256"),
        ({"margin": -1}, "margin -1 does not fit tile size 256"),
        ({"margin": 10**400}, "margin 1000"),
        ({"divisors": [0, 1, 1, 1, 1, 1]}, "a divisor is 0, a number from 1e-09 to 1e\\+09"),
        ({"divisors": [-1, 1, 1, 1, 1, 1]}, "a divisor is -1"),
        ({"divisors": [math.nan, 1, 1, 1, 1, 1]}, "a divisor is nan"),
        ({"divisors": [math.inf, 1, 1, 1, 1, 1]}, "a divisor is inf"),
        ({"divisors": [1e-300, 1, 1, 1, 1, 1]}, "a divisor is 1e-300"),
        ({"divisors": [10**400, 1, 1, 1, 1, 1]}, "divisors: a number is larger than any that is taken"),
        ({"nodata_class": 77}, r"no class is named for values \[77\]"),
        ({"nodata_class": 255}, "class value 255 is not between 0 and 254"),
        ({"probability_classes": [1, 1]}, "probability classes are not ascending"),
        ({"max_batch": 65536, "instances": 65536}, "65536 instances take 65536 tiles each, at most 16384"),
        ({"name": "../../etc"}, "name: '../../etc' cannot name anything"),
        ({"suffix": "a/b"}, "suffix: 'a/b' cannot name anything"),
        ({"suffix": ""}, "suffix: '' cannot name anything"),
        ({"family": "a\x1b[2Jb"}, "family: .* is no text of at most 100 printable characters"),
        ({"architecture": "\u202efp.exe"}, "architecture: .* is no text of at most 100 printable characters"),
        ({"weights_sha256": "x" * 101}, "weights_sha256: .* is no text of at most 100 printable characters"),
        ({"weights_source": 7}, "weights_source: 7 is not a string"),
        ({"weights_source": "x" * 2 * 10**6}, "has 200[0-9]{4} characters, at most 1048576 are read"),
        ({"name": "a\u00a0b"}, "name: .* cannot name anything"),
        ({"channels": ["B02"] * 10**5}, "channels: a list has 100000 entries, at most 128 are taken"),
        ({"schema_version": [10**400, 0]}, "schema version"),
        ({"schema_version": "1.2"}, "'1' is not a whole number"),
    ],
)  # fmt: skip
def test_what_no_client_could_work_with_is_said(
    csmask_contract: ModelContract, fields: dict[str, Any], said: str
) -> None:
    assert re.search(said, refused(changed(csmask_contract, **fields)))


#: Contracts of networks of one's own as they were served before anyone checked them -> what is read.
OWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no digest of weights": ({"weights_sha256": ""}, {"weights_sha256": ""}),
    "an architecture of two": ({"architecture": "deeplab/effnet"}, {"architecture": "deeplab/effnet"}),
    "nothing said": (
        {"architecture": "", "family": "", "precision": ""}, {"architecture": "", "family": "", "precision": ""},
    ),
    "numbers of another language": (
        {"max_batch": 8.0, "gsd_m": 20.0, "margin": 26.0, "schema_version": [1.0, 2.0], "nodata_class": 5.0},
        {"max_batch": 8, "gsd_m": 20, "margin": 26, "schema_version": (1, 2), "nodata_class": 5},
    ),
    "no source": ({"weights_source": None}, {"weights_source": ""}),
    "two lines": ({"weights_source": "mine\nCC-BY \x1b[2J"}, {"weights_source": "mine\\nCC-BY \\x1b[2J"}),
    "a licence's text": ({"weights_source": "x" * 3000}, {"weights_source": "x" * 1999 + "…"}),
    "a licence's text in lines": ({"weights_source": "\n" * 3000}, {"weights_source": ("\\n" * 1000)[:1999] + "…"}),
}  # fmt: skip


@pytest.mark.parametrize("what", OWN)
def test_a_network_of_ones_own_is_served_as_before(csmask_contract: ModelContract, what: str) -> None:
    given, expected = OWN[what]
    read = ModelContract.from_json(changed(csmask_contract, **given))
    found = {name: getattr(read, name) for name in expected}
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]
    assert ModelContract.from_json(read.to_json()) == read
    assert read.sha256() == ModelContract.from_json(read.to_json()).sha256()


@pytest.mark.parametrize("name", ["Snow / Ice", "ombre\u00a0de nuage", "Cloud (thin)..", "雲", "x" * 100])
def test_classes_and_bands_are_called_as_people_call_them(csmask_contract: ModelContract, name: str) -> None:
    document = json.loads(csmask_contract.to_json())
    document["classes"][1]["name"] = name
    text = json.dumps(document).replace('"B8A"', json.dumps(name))
    read = ModelContract.from_json(text)
    assert read.classes[1].name == name
    assert name in read.channels
    (said,) = (entry for entry in stac_classes(read) if entry["value"] == read.classes[1].value)
    assert re.fullmatch("[0-9A-Za-z_-]+", said["name"])
    assert said.get("title", said["name"]) == name


def test_an_item_of_a_model_that_says_little_is_one(csmask_contract: ModelContract) -> None:
    """Which the extension's fields may not be empty for."""
    little = replace(csmask_contract, family="", architecture="", weights_source="", weights_sha256="")
    item = model_item(little)
    assert item["properties"]["mlm:architecture"] == "unknown"
    assert item["properties"]["title"] == "network for Sentinel-2 L2A"
    assert item["assets"]["weights"]["description"]


def _classes(change: Callable[[list[dict[str, Any]]], Any], contract: ModelContract) -> str:
    classes = json.loads(contract.to_json())["classes"]
    change(classes)
    return changed(contract, classes=classes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.append(dict(c[0])), "classes have 6 values and 6 names|7 classes have"),
        (lambda c: c[1].update(name=c[0]["name"]), "names"),
        (lambda c: c[0].update(colour=[256, 0, 0]), r"colour \[256, 0, 0\] is not 8-bit"),
        (lambda c: c[0].update(colour=[-1, 0, 0]), "is not 8-bit"),
        (lambda c: c[0].update(colour=[1.5, 0, 0]), "1.5 is not a whole number"),
        (lambda c: c[0].update(colour=[0] * 10**5), "a list has 100000 entries, at most 3"),
        (lambda c: c[0].update(colour="red"), "'red' is not a list"),
        (lambda c: c[0].update(name="</Item>\n"), "printable characters"),
        (lambda c: c[0].update(name=""), "cannot name anything: it is empty"),
        (lambda c: c[0].update(name="x" * 101), "is no text of at most 100 printable characters"),
        (lambda c: c[0].update(value=True), "True is not a whole number"),
        (lambda c: c[0].pop("name"), "classes: 'name' is missing"),
        (
            lambda c: c.extend([c[0]] * 10**5),
            "a list has 1000[0-9]{2} entries, at most 255|characters, at most 1048576 are read",
        ),
    ],
)
def test_classes_that_are_none(csmask_contract: ModelContract, change: Callable[[Any], Any], said: str) -> None:
    assert re.search(said, refused(_classes(change, csmask_contract)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tile": 65536}, "a tile has [0-9]+ bytes, at most 536870912 are taken"),
        ({"tile": 1}, "has tiles of 1 pixels, 204 apart: some would never be read"),
        ({"gsd_m": -20}, "inputs: -20 is not between 1 and 65536"),
        ({"gsd_m": 30}, "moves 6120 m a tile, the mask 4080 m"),
        ({"bands": [""]}, "inputs: '' cannot name anything"),
        ({"bands": ["B02\n"]}, "printable characters"),
        ({"bands": ["B02", "B02", "B04", "B8A", "B11", "B12"]}, r"the inputs hold \['B02', 'B02'"),
        ({"bands": "B02"}, "'B02' is not a list"),
    ],
)
def test_band_groups_that_are_none(csmask_contract: ModelContract, change: dict[str, Any], said: str) -> None:
    groups = json.loads(csmask_contract.to_json())["inputs"]
    groups[0].update(change)
    assert re.search(said, refused(changed(csmask_contract, inputs=groups)))


@pytest.mark.parametrize(
    "text",
    ["", "[" * 10**5, '{"a":' * 10**5, '{"schema_version": [1, 2]' + ', "x": 1' * 2 + "}", "9" * 5000, "NaN", "\ud800",
     "[]", "{}", '{"schema_version": {}}', '{"schema_version": [1, 2, 3]}', " " * (2 << 20)],
)  # fmt: skip
def test_what_is_no_contract_document(text: str) -> None:
    refused(text)


def test_a_server_does_not_decide_how_much_memory_tiles_in_flight_take(csmask_contract: ModelContract) -> None:
    """The most that a contract may say is more than a client should hold; whoever names a number means it."""
    huge = replace(csmask_contract, max_batch=4096, instances=4)
    window = InFlightWindow.for_contract(huge)
    assert window.maximum * (huge.tile_bytes + huge.answer_bytes + ANSWER_ROOM) <= 4 << 30
    assert window.maximum < 2 * huge.max_batch * huge.instances
    assert InFlightWindow.for_contract(huge, 20_000).maximum == 20_000
    assert (
        InFlightWindow.for_contract(csmask_contract).maximum
        == 2 * csmask_contract.max_batch * csmask_contract.instances
    )
