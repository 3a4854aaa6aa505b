"""What documents promise: links that lead somewhere, command lines that are understood, examples in every help."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import pytest
import typer

from kappamask_stream import cli
from kappamask_stream.cli.teaching_help import TeachingCommand
from tests.unit.documents import PAGES, ROOT, CommandLine, anchors, command_lines, commands_in, links

if TYPE_CHECKING:
    from pathlib import Path

LINES = [line for page in PAGES for line in command_lines(page)]


def app() -> Any:
    return typer.main.get_command(cli.build_app())


def understood(words: tuple[str, ...], *, is_whole: bool = True) -> None:
    """Parse words as the command line does, short of looking at files.

    Raises what click raises: an unknown command, option or choice, a missing value or argument.
    """
    command, rest, context = app(), list(words), None
    context = command.make_context("kappamask-stream", [], resilient_parsing=True)
    while hasattr(command, "commands"):
        context.resilient_parsing = False  # as which it was made: without words it would complain
        if not rest or rest[0].startswith("-"):
            command.make_parser(context).parse_args(args=rest)
            return
        name, found, rest = command.resolve_command(context, rest)
        command, context = found, found.make_context(name, [], parent=context, resilient_parsing=True)
    context.resilient_parsing = False
    values, left, _ = command.make_parser(context).parse_args(args=rest)
    assert not left, f"unexpected {left}"
    for param in command.params:
        value = values.get(param.name)
        if is_whole and param.required and value in (None, [], ()):
            raise AssertionError(f"{param.name} is missing")
        choices = words_of(param.type_descriptor.annotation)
        if choices and isinstance(value, str):
            assert value in choices, f"{value} is not one of {choices}"


def words_of(annotation: Any) -> tuple[str, ...]:
    """The words that a parameter takes, also where it may be left out; none where it takes any."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((words for inner in get_args(annotation) if (words := words_of(inner))), ())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if target.startswith(("http://", "https://")):
            continue
        place, _, anchor = target.partition("#")
        path = (page.parent / place).resolve() if place else page
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(path), target


def test_every_page_is_in_the_index() -> None:
    listed = {(ROOT / "docs" / target).resolve() for target in links(ROOT / "docs" / "index.md")}
    missing = {p for p in PAGES if p.parent.name == "docs" and p.name != "index.md"} - listed
    assert not missing


@pytest.mark.parametrize("line", LINES, ids=str)
def test_command_lines_are_understood(line: CommandLine) -> None:
    understood(line.words, is_whole=line.is_whole)


def test_many_command_lines_are_looked_at() -> None:
    assert len(LINES) > 50
    assert {line.page for line in LINES} >= {"README.md", "sources.md", "outputs.md", "migration.md", "models.md"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "P", "--colour"), "No such option: --colour"),
        (("rum", "P"), "No such command 'rum'"),
        (("run", "P", "--output"), "requires an argument"),
        (("run", "P", "--mosaic", "mean"), "mean is not one of"),
        (("info", "A", "B"), "unexpected"),
        (("evaluate", "A"), "labels is missing"),
        (("--versions",), "No such option: --versions"),
    ],
)
def test_command_lines_that_are_not_understood_are_found(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(Exception, match=says):
        understood(words)


def test_commands_are_found_in_shell_lines() -> None:
    assert commands_in("find . | kappamask-stream run - --json > x  # later") == [("run", "-", "--json")]
    assert commands_in("kappamask-stream run 'a b' && kappamask-stream demo") == [("run", "a b"), ("demo",)]
    assert commands_in("pip install kappamask") == []


def every_command() -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def walk(command: Any, path: str) -> None:
        found.append((path, command))
        for name, sub in getattr(command, "commands", {}).items():
            walk(sub, f"{path} {name}")

    walk(app(), "kappamask-stream")
    return found


@pytest.mark.parametrize(("path", "command"), every_command(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_command_has_an_example_that_is_understood(path: str, command: Any) -> None:
    assert hasattr(command, "commands") or isinstance(command, TeachingCommand)
    (example,) = [p for p in inspect.cleandoc(command.help).split("\n\n") if p.startswith("Example: ")]
    shown = [words for line in example.removeprefix("Example: ").splitlines() for words in commands_in(line)]
    assert " ".join(("kappamask-stream", *shown[0])).startswith(path)
    for words in shown:
        understood(words)
