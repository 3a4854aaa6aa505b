"""docs/messages.md: its examples are what is read, and its lists are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import typer

from kappamask_stream import cli
from kappamask_stream.feed import MessageKind, parse_message
from kappamask_stream.feed.places import DEFAULT_PLACES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "messages.md").read_text()
EXAMPLES = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
SCHEMA = Path(__file__).resolve().parents[2] / "kappamask_stream" / "feed" / "product-message.schema.json"


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_ask_for_one_product(example: str) -> None:
    (ref,) = parse_message(example)
    assert ref.name.tile_id == "T29UNU"
    assert ref.location is not None or ref.kind in {"name", "sentinel2-topic"}


def test_there_is_an_example_of_each_form() -> None:
    kinds = {ref.kind for example in EXAMPLES for ref in parse_message(example)}
    assert kinds == set(get_args(MessageKind))
    for kind in kinds:
        assert f"| `{kind}` |" in PAGE


def test_example_of_the_own_message_is_of_its_schema() -> None:
    (own,) = [message for example in EXAMPLES if "schema" in (message := json.loads(example))]
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(own)
    assert set(own) == set(json.loads(SCHEMA.read_text())["properties"])


def test_default_places_are_listed() -> None:
    for place in DEFAULT_PLACES:
        host = place.partition("://")[2].removesuffix(".s3.us-west-2.amazonaws.com")
        assert host in PAGE, place


def test_filters_are_those_of_the_command_line() -> None:
    command = typer.main.get_command(cli.build_app()).commands["submit"]  # type: ignore[attr-defined]
    group = {
        name
        for p in command.params
        if getattr(p, "rich_help_panel", "") == "Which products are wanted"
        for name in p.opts
    }
    assert set(re.findall(r"`(--[a-z-]+)", PAGE.partition("## Filters")[2].partition("Times are")[0])) == group
