"""Cloud masks for Sentinel-2 products, streamed through NVIDIA Triton Inference Server.

What Python users need is here; see `kappamask_stream.api` and docs/api.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kappamask_stream.api import Masker, MaskWindow, mask_product, mask_product_sync, stream_windows

__all__ = ["MaskWindow", "Masker", "mask_product", "mask_product_sync", "stream_windows"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the library when it is first asked for: ``--help`` and ``__version__`` need none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kappamask_stream import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
