"""The direction of imports, and the two environments, are rules that a test keeps."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "kappamask_stream"

PURE = {
    "errors",
    "contract",
    "contract_fields",
    "contract_rules",
    "plain_text",
    "canary",
    "canary_scene",
    "extent",
    "grid",
    "frame",
    "dilation",
    "mosaic",
    "blend",
    "overviews",
    "radiometry",
    "nodata",
    "evaluation",
}
SERVER_ONLY = {"server_models", "onnx", "onnxruntime", "openvino", "h5py", "ukis_csmask", "pytriton", "torch"}
#: Layers from the core outwards: a module imports only from its own layer's list of allowed ones.
LAYERS = [
    PURE,
    {
        "settings",
        "settings_masking",
        "settings_worker",
        "signals",
        "queues",
        "feed",
        "capacity",
        "atomic",
        "s3",
        "sources",
        "jp2",
        "leftovers",
        "aoi",
        "bands",
        "inference",
        "cog",
        "budget",
        "disk",
        "metadata",
        "mgrs",
        "names",
        "png",
        "product",
        "manifest",
        "quicklook",
        "server",
        "synth",
        "result",
        "threads",
        "tile_pictures",
        "weights",
        "whereabouts",
    },
    {
        "assembly",
        "destinations",
        "extras",
        "mask_options",
        "output",
        "pipeline",
        "planning",
        "product_run",
        "recipe",
        "resources",
        "sampling",
        "stac",
        "report",
        "survey",
    },
    {"models", "opening", "runner", "api", "api_options", "km_predict"},
    {"worker", "monitor", "bench", "processes"},
    {"cli", "__main__"},
]


def modules_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    relative = path.relative_to(CLIENT)
    return relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules_of(CLIENT), ids=lambda p: str(p.relative_to(ROOT)))
def test_client_never_imports_the_servers_side(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & SERVER_ONLY


@pytest.mark.parametrize("path", [p for p in modules_of(CLIENT) if part_of(p) in PURE], ids=lambda p: p.name)
def test_pure_core_imports_numpy_and_itself_only(path: Path) -> None:
    for name in imported(path):
        if name.startswith("kappamask_stream."):
            assert name.split(".")[1] in PURE, name
        else:
            assert name.split(".")[0] in {*sys.stdlib_module_names, "numpy"}, name
    assert not {n.split(".")[0] for n in imported(path)} & {"time", "logging", "os", "pathlib", "asyncio", "socket"}


@pytest.mark.parametrize("path", modules_of(CLIENT), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_inwards(path: Path) -> None:
    own = part_of(path)
    if own == "__init__":
        return
    layer = next((i for i, names in enumerate(LAYERS) if own in names), None)
    assert layer is not None, f"{own} belongs to no layer: add it to LAYERS"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "kappamask_stream" and len(parts) > 1 and parts[1] != "__version__":
            other = next((i for i, names in enumerate(LAYERS) if parts[1] in names), None)
            assert other is not None, name
            assert other <= layer, f"{own} imports {name}"


@pytest.mark.parametrize("path", modules_of(ROOT / "server_models"), ids=lambda p: p.name)
def test_server_models_import_only_contract_canary_and_errors_of_the_client(path: Path) -> None:
    used = {name.split(".")[1] for name in imported(path) if name.startswith("kappamask_stream.")}
    assert used <= {"contract", "canary", "errors"}


def test_triton_folder_is_no_package() -> None:
    assert not (ROOT / "triton" / "__init__.py").exists()


def test_help_needs_no_heavy_import() -> None:
    """`--help` answers at once: numpy, rasterio and gRPC wait until a command runs."""
    code = (
        "import sys\nfrom kappamask_stream.cli import build_app\nbuild_app()\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'rasterio', 'grpc', 'imagecodecs'}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
