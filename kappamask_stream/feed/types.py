"""What a message says of a product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.names import ProductName

#: Forms of messages, as they are counted.
MessageKind = Literal["own", "s3-event", "sentinel2-topic", "stac-item", "cdse", "name"]


@dataclass(frozen=True, kw_only=True)
class ProductRef:
    """One product that a message asks for.

    Attributes
    ----------
    name : as the message gives it, checked.
    kind : form of the message.
    location : where the message says that the product is (``s3://…``, ``https://…``), not yet checked against what may
        be read; None where it says nothing of use.
    cloud_cover : percent, as the producer computed it; None where the message does not say.
    footprint : GeoJSON geometry in longitude and latitude (EPSG:4326); None where the message does not say.
    """

    name: ProductName
    kind: MessageKind
    location: str | None = None
    cloud_cover: float | None = None
    footprint: Mapping[str, Any] | None = None
