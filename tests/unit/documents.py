"""The documents that people read, taken apart: links, code fences, command lines."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_BREAKS = {"|", "||", "&&", ";", ">", ">>", "2>", "&"}


@dataclass(frozen=True)
class CommandLine:
    """``kappamask-stream …`` as a document shows it.

    Attributes
    ----------
    page : name of the file.
    words : what follows the program's name.
    is_whole : True may be typed as it is; False is a command mentioned in a sentence, maybe without its arguments.
    """

    page: str
    words: tuple[str, ...]
    is_whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def fences(page: Path, language: str) -> list[str]:
    return [m["code"] for m in _FENCE.finditer(page.read_text()) if m["language"] == language]


def links(page: Path) -> list[str]:
    """Targets of a page's links, without those in code."""
    return [m["target"] for m in _LINK.finditer(_FENCE.sub("", page.read_text()))]


def anchors(page: Path) -> set[str]:
    """Names under which a forge links a page's headings."""
    texts = (m["text"] for m in _HEADING.finditer(_FENCE.sub("", page.read_text())))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def command_lines(page: Path) -> list[CommandLine]:
    found = []
    for code in fences(page, "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            found += [CommandLine(page.name, words, is_whole=True) for words in commands_in(line)]
    for quoted in re.findall(r"`(kappamask-stream [^`\n]+)`", _FENCE.sub("", page.read_text())):
        found += [CommandLine(page.name, words, is_whole=False) for words in commands_in(quoted)]
    return found


def commands_in(line: str) -> list[tuple[str, ...]]:
    """Words after ``kappamask-stream`` of each command of a shell line, up to a pipe or a redirection."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words, found = list(lexer), []
    for number, word in enumerate(words):
        if word == "kappamask-stream":
            rest = words[number + 1 :]
            end = next((i for i, w in enumerate(rest) if w in _BREAKS), len(rest))
            found.append(tuple(rest[:end]))
    return found
