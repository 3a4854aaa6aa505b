"""The XML of a product: MTD_MSIL1C.xml, MTD_MSIL2A.xml and MTD_TL.xml, read with suspicion."""

from kappamask_stream.metadata.agreement import remarks, require_agreement
from kappamask_stream.metadata.hardened_xml import XML_LIMIT, parse_xml
from kappamask_stream.metadata.psd import BAND_IDS, ProductMetadata, TileMetadata, product_metadata, tile_metadata

__all__ = [
    "BAND_IDS",
    "XML_LIMIT",
    "ProductMetadata",
    "TileMetadata",
    "parse_xml",
    "product_metadata",
    "remarks",
    "require_agreement",
    "tile_metadata",
]
