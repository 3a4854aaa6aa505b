"""Areas of interest: read from what people write, brought into a product's projection, cut into windows and pixels."""

from kappamask_stream.aoi.area import AreaOfInterest, ProductArea
from kappamask_stream.aoi.parse import parse_aoi

__all__ = ["AreaOfInterest", "ProductArea", "parse_aoi"]
