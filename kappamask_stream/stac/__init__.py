"""Catalogue entries: a STAC Item per mask, one per model, and the Collection around them.

Where they lie, relative to the folder that all products are written to::

    collection.json                       links to every mask's Item; grows with each run
    models/<model>-<weights>.json         how the masks were made (machine learning model extension)
    <product>/<stem>.json                 one mask
"""

from kappamask_stream.stac.catalogue import Catalogue, Catalogues
from kappamask_stream.stac.collection import COLLECTION_FILE, ItemEntry, collection, merged
from kappamask_stream.stac.extra import StacExtra
from kappamask_stream.stac.footprint import Footprint, footprint
from kappamask_stream.stac.item import mask_item
from kappamask_stream.stac.model import model_file, model_item
from kappamask_stream.stac.publishing import publish_catalogue
from kappamask_stream.stac.version import deprecated_item, is_deprecated

__all__ = [
    "COLLECTION_FILE",
    "Catalogue",
    "Catalogues",
    "Footprint",
    "ItemEntry",
    "StacExtra",
    "collection",
    "deprecated_item",
    "footprint",
    "is_deprecated",
    "mask_item",
    "merged",
    "model_file",
    "model_item",
    "publish_catalogue",
]
