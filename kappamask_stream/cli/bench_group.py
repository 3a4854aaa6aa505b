"""A group of commands that is a command itself: its help shows options in groups as a command's does."""

from __future__ import annotations

from typing import Any

from kappamask_stream.cli.teaching_help import TeachingCommand, TeachingGroup


class BenchGroup(TeachingGroup):
    """`bench`: runs by itself, and has commands."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write options by group, then the commands."""
        TeachingCommand.format_options(self, ctx, formatter)  # type: ignore[arg-type]  # needs parameters alone
        self.format_commands(ctx, formatter)
