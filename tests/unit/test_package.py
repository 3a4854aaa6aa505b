"""What `import kappamask_stream` offers."""

from __future__ import annotations

import pytest

import kappamask_stream
from kappamask_stream import api


def test_the_front_door_is_the_libraries() -> None:
    for name in kappamask_stream.__all__:
        assert getattr(kappamask_stream, name) is getattr(api, name)


def test_other_names_are_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'kappamask_stream' has no attribute 'mask_products'"):
        _ = kappamask_stream.mask_products  # type: ignore[attr-defined]
