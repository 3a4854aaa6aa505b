"""What a store may say of the range that it sends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kappamask_stream.s3.client import S3Object
from kappamask_stream.s3.reading import Version, _check
from kappamask_stream.s3.retry import TryLaterError


@pytest.mark.parametrize(
    "said",
    [f"bytes 0-{'9' * 5000}/10", f"bytes {'0' * 5000}-9/10", "bytes \u0660-\u0669/10", "bytes 0-9/", "bytes 1-9/10"],
)
def test_a_range_that_is_none_is_asked_for_again(said: str) -> None:
    """Python makes no number of 5000 digits: that was taken for a fault of this program."""
    answer: Any = SimpleNamespace(headers={"Content-Range": said}, status=206, content_length=10)
    with pytest.raises(TryLaterError, match="asked for bytes 0 to 9, the store answers") as caught:
        _check(answer, S3Object(bucket="b", key="k", size=10, etag=None), Version(), 0, 10)
    assert len(str(caught.value)) < 200
