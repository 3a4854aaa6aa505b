"""Hardened XML: no document types, no entities, no external references, bounded size; fields by local name."""

from __future__ import annotations

import math
import re
from functools import cached_property
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from kappamask_stream.errors import ProductError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

#: Largest XML file that is read, bytes; real ones have up to 0.6 MB (a granule with 13 bands x 7 detectors).
XML_LIMIT = 8 * 1024 * 1024
#: Real files have up to 5,000 elements, 9 deep; 8 MB could hold millions, which take a second for each 160,000.
_MOST_ELEMENTS = 50_000
_DEEPEST = 64
#: Real files have up to 1,700 attributes; a parser holds those of one element all at once.
_MOST_ATTRIBUTES = 50_000

_RESOLUTIONS = ("10", "20", "60")
_MOST_PIXELS = 2**16
#: No part of it can match in two ways: a long text that is none costs one look at each character.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_LONGEST_NUMBER = 64
_LONGEST_CAUSE = 200


def parse_xml(data: bytes, where: str) -> Element:
    """Parse XML without DTDs, entities or external references, of bounded size.

    Parameters
    ----------
    where : the file, for messages.

    Raises
    ------
    ProductError
        If it is malformed, too large, or uses what is refused.
    """
    # Before the parser sees them, which takes 300 bytes for each; in every encoding an attribute has this byte.
    if len(data) > XML_LIMIT or data.count(b"=") > _MOST_ATTRIBUTES:
        raise ProductError(
            f"{where} has {len(data)} bytes and {data.count(b'=')} attributes, at most {XML_LIMIT} and "
            f"{_MOST_ATTRIBUTES} are read: it is no Sentinel-2 metadata"
        )
    parser = DefusedXMLParser(target=_BoundedBuilder(where), forbid_dtd=True)
    try:
        parser.feed(data)
        root: Element = parser.close()
    except DefusedXmlException as error:
        raise ProductError(
            f"{where} declares a document type or entities ({_brief(error)}): Sentinel-2 metadata never does, it is "
            "not read"
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise ProductError(f"{where} is no well-formed XML ({_brief(error)}): it is damaged, fetch it again") from error
    return root


def _brief(error: Exception) -> str:
    """Return what a parser says, which may repeat a name from the file, of any length."""
    return str(error)[:_LONGEST_CAUSE]


class _BoundedBuilder(TreeBuilder):
    """Builds an element tree that cannot grow without bound."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where, self._count, self._depth = where, 0, 0

    def start(self, tag: str, attrs: dict[str, str]) -> Element:
        self._count, self._depth = self._count + 1, self._depth + 1
        if self._count > _MOST_ELEMENTS or self._depth > _DEEPEST:
            raise ProductError(
                f"{self._where} has more than {_MOST_ELEMENTS} elements or nests them deeper than {_DEEPEST}: "
                "it is no Sentinel-2 metadata"
            )
        return super().start(tag, attrs)

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return super().end(tag)


class Fields:
    """The fields below an element, by local name; several names are the same field in different PSD versions.

    All methods raise ProductError, naming file and field, where a field is missing, doubled or nonsense.

    Attributes
    ----------
    where : the file, and the element in it, for messages.
    """

    def __init__(self, root: Element, where: str) -> None:
        self.where, self._root = where, root

    @cached_property
    def _named(self) -> dict[str, list[Element]]:
        """Elements by local name; made when it is asked for, so that elements inside their own kind cost nothing."""
        named: dict[str, list[Element]] = {}
        for element in self._root.iter():
            named.setdefault(element.tag.rpartition("}")[2], []).append(element)
        return named

    def error(self, name: str, wanted: str) -> ProductError:
        """Make the error that a field is not what is wanted."""
        values = self.texts(name) or ["missing or empty"]
        return ProductError(f"{self.where}: {name} is {values[0][:80]!r}, not {wanted}")

    def inside(self, name: str) -> list[Fields]:
        """Return the elements of a name, each with its own fields."""
        return [Fields(element, f"{self.where}: {name}") for element in self._named.get(name, [])]

    def by_resolution(self, name: str) -> dict[int, Fields]:
        """Return the elements of a name by their attribute ``resolution`` in metres; at least one, each once."""
        found: dict[int, Fields] = {}
        for element in self.inside(name):
            resolution = element.attribute("resolution")
            if resolution not in _RESOLUTIONS or int(resolution) in found:
                again = " a second time" if resolution in _RESOLUTIONS else ", not 10, 20 or 60"
                raise ProductError(f"{self.where}: {name} has resolution {resolution[:40]!r}{again}")
            element.where += f" at {resolution} m"
            found[int(resolution)] = element
        if not found:
            raise ProductError(f"{self.where}: {name} is missing; is it the metadata of a Sentinel-2 tile?")
        return found

    def attribute(self, name: str) -> str:
        """Return an attribute of the element itself, empty where it has none."""
        return self._root.get(name, "")

    def texts(self, *names: str) -> list[str]:
        """Return the texts of all elements of these names that hold one."""
        found = (self._text_of(element, name) for name in names for element in self._named.get(name, []))
        return [text for text in found if text]

    def optional(self, *names: str) -> str | None:
        """Return the one text of a field, None where it is left out."""
        return self.text(*names) if self.texts(*names) else None

    def text(self, *names: str) -> str:
        """Return the one text of a field that must be there; saying the same twice is no fault."""
        values = sorted(set(self.texts(*names)))
        if len(values) != 1:
            what = f"has {len(values)} different values ({values[0][:40]!r}, …)" if values else "is missing or empty"
            raise ProductError(f"{self.where}: {names[0]} {what}; is it the metadata of one Sentinel-2 product?")
        return values[0]

    def matching(self, pattern: str, name: str, *, wanted: str) -> str:
        """Return the one text of a field, which must match a pattern as a whole."""
        text = self.text(name)
        if re.fullmatch(pattern, text, re.ASCII) is None:
            raise self.error(name, wanted)
        return text

    def number(self, *names: str) -> float:
        """Return a field as a finite number."""
        return self._as_number(names[0], self.text(*names))

    def own_number(self) -> float:
        """Return the element's own text as a finite number."""
        return self._as_number("", self._text_of(self._root, ""))

    def optional_number(self, name: str) -> float | None:
        """Return a field as a finite number, None where it is left out or ``NaN``."""
        text = self.optional(name)
        return None if text is None or text.lower() == "nan" else self._as_number(name, text)

    def positive(self, *names: str) -> float:
        """Return a field as a number above 0."""
        value = self.number(*names)
        if not value > 0:
            raise self.error(names[0], "positive")
        return value

    def count(self, name: str) -> int:
        """Return a field as a whole number of pixels."""
        value = self.number(name)
        if not 1 <= value <= _MOST_PIXELS or not value.is_integer():
            raise self.error(name, f"a whole number from 1 to {_MOST_PIXELS}")
        return int(value)

    def _text_of(self, element: Element, name: str) -> str:
        """Return an element's text; one with elements inside would be read as what stands before the first of them."""
        if len(element):
            raise ProductError(f"{self._label(name)} holds other elements, a text is expected")
        return (element.text or "").strip()

    def _as_number(self, name: str, text: str) -> float:
        is_number = len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text)
        value = float(text) if is_number else math.nan
        if not math.isfinite(value):
            raise ProductError(f"{self._label(name)} is {text[:80]!r}, not a number")
        return value

    def _label(self, name: str) -> str:
        return f"{self.where}: {name}" if name else self.where
