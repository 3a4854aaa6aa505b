"""Cloud masks for Sentinel-2 products, streamed through NVIDIA Triton Inference Server."""

__version__ = "0.1.0"
