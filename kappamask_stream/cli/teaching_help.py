"""Help that is read: options in groups, examples as they are typed. Plain text, without boxes, for pipes and people."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

_OTHER = "Options"


class TeachingCommand(TyperCommand):
    """A command whose help groups options by their ``rich_help_panel``, in the order in which groups first appear."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the docstring: paragraphs wrapped, examples line by line."""
        del ctx
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options by group; those of no group, with ``--help``, come last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        other: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            if param.param_type_name == "argument":
                groups.setdefault("Arguments", []).append(record)
            elif panel := getattr(param, "rich_help_panel", None):
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
