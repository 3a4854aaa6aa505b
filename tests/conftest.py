"""Fixtures shared by all stages: where the real data lies, and what is skipped where it is absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from kappamask_stream.contract import BandGroup, MaskClass, ModelContract
from tests.fault_table import fault, pytest_runtest_makereport, pytest_terminal_summary
from tests.integration.queue_servers import queue_server, served_queue, served_topic
from tests.integration.s3_servers import aws_environment, moto_store, rclone_store, stores_env
from tests.integration.session import csmask_address, session_server

#: Fixtures for tests of all stages: one real Triton, two S3 stores, the record of injected faults.
__all__ = [
    "aws_environment",
    "csmask_address",
    "fault",
    "moto_store",
    "pytest_runtest_makereport",
    "pytest_terminal_summary",
    "queue_server",
    "rclone_store",
    "served_queue",
    "served_topic",
    "session_server",
    "stores_env",
]

#: Counts what `make thorough` runs.
pytest_plugins = ["tests.thorough_table"]

# No deadlines: two cores are shared with servers that other tests start.
settings.register_profile("kappamask", deadline=None, max_examples=60)
settings.load_profile("kappamask")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with real Sentinel-2 data and golden tiles, beside the checkout; absent on a user's machine."""
    default = Path(__file__).resolve().parents[1].parent / "shared"
    path = Path(os.environ.get("KAPPAMASK_SHARED", default))
    if not (path / "data").is_dir():
        pytest.skip(f"no real data at {path} (set KAPPAMASK_SHARED)")
    return path


@pytest.fixture(scope="session")
def server_env() -> Path:
    """The local server's environment, as `make test` makes it; tests that need a real Triton skip without it."""
    from kappamask_stream.errors import ServerSetupError
    from kappamask_stream.server import ServerEnvironment

    given = os.environ.get("KAPPAMASK_SERVER_ENV")
    environment = ServerEnvironment.at(Path(given) if given else None)
    try:
        environment.require()
    except ServerSetupError as error:
        pytest.skip(f"no local Triton: {error}")
    return environment.path


_CLASSES = tuple(
    MaskClass(value=value, name=name, colour=(40 * value, 30 * value, 20 * value))
    for value, name in enumerate(("UNDEFINED", "CLEAR", "CLOUD_SHADOW", "SEMI_TRANSPARENT_CLOUD", "CLOUD", "MISSING"))
)


def make_contract(
    *, inputs: tuple[BandGroup, ...], gsd_m: int, tile_size: int, margin: int, **rest: Any
) -> ModelContract:
    """Build a contract for tests; the arithmetic is csmask's unless `rest` says otherwise."""
    channels = tuple(band for group in inputs for band in group.bands)
    defaults: dict[str, Any] = {
        "name": "test_l2a",
        "family": "test",
        "level": "L2A",
        "architecture": "None",
        "precision": "f32",
        "channels": channels,
        "divisors": (1.0,) * len(channels),
        "dn_unit": "quantification",
        "offset_rule": "reflectance",
        "classes": _CLASSES,
        "nodata_class": 5,
        "probability_classes": (1, 2, 4),
        "suffix": "XX",
        "max_batch": 8,
        "instances": 1,
        "weights_sha256": "ab" * 32,
        "weights_source": "made for tests",
    }
    return ModelContract(inputs=inputs, gsd_m=gsd_m, tile_size=tile_size, margin=margin, **{**defaults, **rest})


@pytest.fixture
def csmask_contract() -> ModelContract:
    """Shapes of csmask for L2A: six bands of the 20 m files."""
    bands = ("B02", "B03", "B04", "B8A", "B11", "B12")
    return make_contract(
        inputs=(BandGroup(gsd_m=20, bands=bands, tile=256, stride=204),), gsd_m=20, tile_size=256, margin=26
    )


@pytest.fixture
def l1c_csmask_contract() -> ModelContract:
    """Shapes of csmask for L1C: 10 m bands are averaged on the server."""
    return make_contract(
        inputs=(
            BandGroup(gsd_m=10, bands=("B02", "B03", "B04", "B08"), tile=512, stride=408),
            BandGroup(gsd_m=20, bands=("B11", "B12"), tile=256, stride=204),
        ),
        gsd_m=20,
        tile_size=256,
        margin=26,
        level="L1C",
    )


@pytest.fixture
def kappamask_contract() -> ModelContract:
    """Shapes of KappaMask's DeepLabv3+ for L2A."""
    return make_contract(
        inputs=(
            BandGroup(gsd_m=10, bands=("AOT", "WVP", "B02", "B03", "B04", "B08"), tile=512, stride=480),
            BandGroup(gsd_m=20, bands=("B05", "B06", "B07", "B8A", "B11", "B12"), tile=256, stride=240),
            BandGroup(gsd_m=60, bands=("B01", "B09"), tile=85, stride=80),
        ),
        gsd_m=10,
        tile_size=512,
        margin=16,
        family="kappamask",
        dn_unit="full_scale",
        probability_classes=(0, 1, 2, 3, 4, 5),
        suffix="KZ",
    )
