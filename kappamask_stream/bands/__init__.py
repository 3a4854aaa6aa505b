"""Bands by the piece, whatever their file's format; those of tiled TIFFs and resampled ones are here."""

from kappamask_stream.bands.choice import BandFile, choose_files, fitted, provenance, require_place
from kappamask_stream.bands.cog import CogIndex, index_cog_steps
from kappamask_stream.bands.resampled import AveragedIndex, ReplicatedIndex
from kappamask_stream.bands.types import BandIndex, BandTile

__all__ = [
    "AveragedIndex",
    "BandFile",
    "BandIndex",
    "BandTile",
    "CogIndex",
    "ReplicatedIndex",
    "choose_files",
    "fitted",
    "index_cog_steps",
    "provenance",
    "require_place",
]
