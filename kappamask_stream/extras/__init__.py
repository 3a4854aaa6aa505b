"""What else a run can make of a product: probabilities, tiles of their own, pictures, catalogue entries, a report."""

from kappamask_stream.extras.selection import selected
from kappamask_stream.extras.types import Extra, FinishedMask, MaskJob, TileAnswer

__all__ = ["Extra", "FinishedMask", "MaskJob", "TileAnswer", "selected"]
