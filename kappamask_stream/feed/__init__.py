"""Feeds of Sentinel-2: what messages mean, which products are wanted, and what may be read for them."""

from kappamask_stream.feed.filter import FeedFilter
from kappamask_stream.feed.message import to_message
from kappamask_stream.feed.parse import parse_message
from kappamask_stream.feed.places import AllowedPlaces, where_of
from kappamask_stream.feed.types import MessageKind, ProductRef

__all__ = ["AllowedPlaces", "FeedFilter", "MessageKind", "ProductRef", "parse_message", "to_message", "where_of"]
