"""Synthetic Sentinel-2 products whose clouds and shadows are known pixel by pixel."""

from kappamask_stream.synth.safe import SynthResult, check_request, write_product

__all__ = ["SynthResult", "check_request", "write_product"]
