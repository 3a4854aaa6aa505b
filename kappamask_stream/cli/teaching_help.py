"""Help that is read: options in groups, examples as they are typed. Plain text, without boxes, for pipes and people."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

_OTHER = "Options"
#: How typer shows a value's type, and a number's limits, and what people are told instead.
_VALUES = {"str": "TEXT", "int": "N", "int range": "N", "float": "N", "file": "FILE", "path": "PATH", "dir": "DIR"}
_TYPE = re.compile(r"<([^<>]+)>$")
_RANGE = re.compile(r"(\d+)<=x<=(\d+)(?=\]$)")
_LEAST = re.compile(r"x>=(\d+)(?=\]$)")


class TeachingCommand(TyperCommand):
    """A command whose help groups options by their ``rich_help_panel``, in the order in which groups first appear."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the docstring: paragraphs wrapped, examples line by line."""
        del ctx
        _write_text(self.help or "", formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the command's name in its usage line: arguments in capitals."""
        pieces = [re.sub(r"\{(.*)\}", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]
        return [re.sub(r"^\[?[a-z_]+\]?$", lambda name: name[0].upper(), piece) for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options by group; those of no group, with ``--help``, come last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        other: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            name, text = record
            text = _LEAST.sub(r"\1 or more", _RANGE.sub(r"\1 to \2", text))
            if param.param_type_name == "argument":
                name = _TYPE.sub("", name).strip()
                groups.setdefault("Arguments", []).append((name.upper() if name.islower() else name, text))
                continue
            record = _TYPE.sub(lambda kind: _VALUES.get(kind[1], kind[1]), name), text
            if panel := getattr(param, "rich_help_panel", None):
                groups.setdefault(panel, []).append(record)
            else:
                other.append(record)
        for title, records in {**groups, _OTHER: other}.items():
            _write_section(title, records, formatter)


class TeachingGroup(TyperGroup):
    """A group of commands whose help shows examples line by line."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the help: paragraphs wrapped, examples line by line."""
        del ctx
        _write_text(self.help or "", formatter)


def _write_text(text: str, formatter: Any) -> None:
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        formatter.write_paragraph()
        with formatter.indentation():
            if paragraph.startswith("Example"):
                for line in paragraph.splitlines():
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")
            else:
                formatter.write_text(paragraph)


def _write_section(title: str, records: Sequence[tuple[str, str]], formatter: Any) -> None:
    if records:
        with formatter.section(title):
            formatter.write_dl(records)
