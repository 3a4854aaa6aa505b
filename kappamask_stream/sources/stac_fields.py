"""The fields of a STAC Item that masks need, of every catalogue that publishes Sentinel-2. Pure; hardened.

Known by their Items: Earth Search (colours as keys, COG and ``-jp2``), Planetary Computer (``B02``, COG), Copernicus
Data Space (``B02_10m``, JPEG 2000) and stactools (``red_20m``). STAC 1.0 and 1.1; raster and projection extensions
before and after bands were unified.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import ProductError

if TYPE_CHECKING:
    from collections.abc import Callable

_EPSG = re.compile(r"EPSG:([0-9]{1,9})", re.IGNORECASE | re.ASCII)
_LARGEST_SIDE = 100_000
_FARTHEST_M = 2e7


@dataclass(frozen=True)
class Node:
    """An object of the JSON, and where it stands.

    Attributes
    ----------
    fields : its members.
    where : the Item, and the way to this object, for messages.
    """

    fields: dict[str, Any]
    where: str

    def error(self, name: str, wanted: str) -> ProductError:
        """Return the error for a field that is not what it should be."""
        said = repr(self.fields[name])[:80] if name in self.fields else "missing"
        return ProductError(f"{self.where}: {name} is {said}, {wanted} is expected")

    def node(self, name: str) -> Node:
        """Return an object; an empty one where it is left out."""
        found = self.fields.get(name)
        if found is not None and not isinstance(found, dict):
            raise self.error(name, "an object")
        return Node(found or {}, f"{self.where}, {name}")

    def first(self, name: str) -> Node:
        """Return the first object of a list, such as ``raster:bands``; an empty one where there is none."""
        found = self.fields.get(name) or [{}]
        if not isinstance(found, list) or not isinstance(found[0], dict):
            raise self.error(name, "a list of objects")
        return Node(found[0], f"{self.where}, {name}")

    def text(self, *names: str) -> str | None:
        """Return the first of these fields that is there."""
        for name in names:
            found = self.fields.get(name)
            if found is not None and (not isinstance(found, str) or len(found) > 1000 or not found.isprintable()):  # noqa: PLR2004
                raise self.error(name, "a short text")
            if found:
                return str(found)
        return None

    def number(self, *names: str) -> float | None:
        """Return the first of these fields that is there."""
        for name in names:
            found = self.fields.get(name)
            if found is not None:
                if not _is_number(found):
                    raise self.error(name, "a number")
                return float(found)
        return None

    def flag(self, *names: str) -> bool | None:
        """Return the first of these fields that is there."""
        for name in names:
            found = self.fields.get(name)
            if found is not None and not isinstance(found, bool):
                raise self.error(name, "true or false")
            if found is not None:
                return bool(found)
        return None

    def numbers(self, name: str, lengths: tuple[int, ...]) -> list[float] | None:
        """Return a list of numbers; None where it is left out."""
        found = self.fields.get(name)
        if found is None:
            return None
        if not isinstance(found, list) or len(found) not in lengths or not all(map(_is_number, found)):
            raise self.error(name, f"a list of {' or '.join(map(str, lengths))} numbers")
        return [float(value) for value in found]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where pixels lie.

    Attributes
    ----------
    gsd_m : size of a pixel, metres.
    ulx, uly : upper-left corner of the upper-left pixel, metres.
    """

    gsd_m: int
    ulx: float
    uly: float


def parse_object(data: bytes, where: str) -> Node:
    """Read JSON text that must be one object.

    Raises
    ------
    ProductError
        If it is no JSON, nested too deeply, or something else.
    """
    try:
        found = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        begins = data[:40].decode("utf-8", "replace")
        raise ProductError(f"{where} is no JSON ({said}), it begins with {begins!r}: give a STAC Item") from error
    if not isinstance(found, dict):
        raise ProductError(f"{where} is JSON but no object: give a STAC Item")
    return Node(found, where)


def place_of(asset: Node, properties: Node) -> tuple[Place | None, tuple[int, int] | None]:
    """Return place and size (rows, columns) of an asset's pixels, as far as the Item says them.

    Raises
    ------
    ProductError
        If they are no pixels of 10, 20 or 60 m, north up.
    """
    shape = _either(asset, properties, lambda node: node.numbers("proj:shape", (2,)))
    size = None
    if shape is not None:
        if any(side != int(side) or not 0 < side <= _LARGEST_SIDE for side in shape):
            raise asset.error("proj:shape", f"rows and columns, 1 to {_LARGEST_SIDE}")
        size = int(shape[0]), int(shape[1])
    place = _either(asset, properties, lambda node: node.numbers("proj:transform", (6, 9)))
    if place is not None:
        gsd, skew, ulx, skew_too, down, uly = place[:6]
        if (skew, skew_too, down) != (0, 0, -gsd) or gsd not in {10, 20, 60} or max(abs(ulx), abs(uly)) > _FARTHEST_M:
            raise asset.error("proj:transform", "pixels of 10, 20 or 60 m, north up")
        return Place(gsd_m=int(gsd), ulx=ulx, uly=uly), size
    box = _either(asset, properties, lambda node: node.numbers("proj:bbox", (4,)))
    if box is None or size is None:
        return None, size
    gsd = (box[2] - box[0]) / size[1]
    if gsd not in {10, 20, 60} or (box[3] - box[1]) / size[0] != gsd or max(map(abs, box)) > _FARTHEST_M:
        raise asset.error("proj:bbox", f"{size[0]} x {size[1]} pixels of 10, 20 or 60 m")
    return Place(gsd_m=int(gsd), ulx=box[0], uly=box[3]), size


def epsg_of(asset: Node, properties: Node) -> int | None:
    """Return the code of a UTM zone; None where the Item does not say it.

    Raises
    ------
    ProductError
        If the projection is another: Sentinel-2 tiles lie in UTM zones.
    """
    for node in (asset, properties):
        code, number = node.text("proj:code"), node.number("proj:epsg")
        found = None if code is None else _EPSG.fullmatch(code)
        if found is not None:
            number = float(found[1])
        if number is not None:
            if not (number == int(number) and (32601 <= number <= 32660 or 32701 <= number <= 32760)):  # noqa: PLR2004
                raise node.error("proj:code" if code else "proj:epsg", "a UTM zone, 32601 to 32660 or 32701 to 32760")
            return int(number)
    return None


def raster_of(asset: Node) -> tuple[float | None, float | None]:
    """Return scale and offset of an asset's pixels: raster extension 1 and 2, of the band or of the asset.

    Raises
    ------
    ProductError
        If they are no numbers, or nothing that can be undone.
    """
    nodes = asset.first("raster:bands"), asset.first("bands"), asset
    names = (("scale",), ("raster:scale",), ("raster:scale",)), (("offset",), ("raster:offset",), ("raster:offset",))
    scale, offset = (
        next((value for node, name in zip(nodes, kind, strict=True) if (value := node.number(*name)) is not None), None)
        for kind in names
    )
    if scale is not None and not 0 < scale < math.inf:
        raise ProductError(f"{asset.where}: the raster scale is {scale:g}, a positive number is expected")
    return scale, offset


def _either(asset: Node, properties: Node, read: Callable[[Node], list[float] | None]) -> list[float] | None:
    found = read(asset)
    return read(properties) if found is None else found


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond what a float holds
        return False


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
