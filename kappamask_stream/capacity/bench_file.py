"""Files of measurements: the schema ``kappamask-stream/bench``, version 1, and what reads it.

`BenchFile` is the schema. Numbers are per product and greater than 0; any of them may be null or left out, who needs
one says so. Unknown fields are passed over: a writer may add some without a new version; a field whose meaning changes
makes a new version, which this reader refuses.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kappamask_stream.capacity.earlier_files import figures_of_earlier
from kappamask_stream.capacity.figures import BenchFigures, Figure, Network
from kappamask_stream.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: Final = "kappamask-stream/bench"
VERSION: Final = 1
#: The project's largest has 78 kB.
_MOST_BYTES = 16 * 1024 * 1024


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Machine(_Part):
    """Where it was measured."""

    cpu: str | None = Field(default=None, description="The processor's name.")
    gpu: str | None = Field(default=None, description="The GPU's name; null where the server had none.")


class MeasuredProduct(_Part):
    """What was masked."""

    name: str | None = Field(default=None, description="Of the product.")
    tiles: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Of the grid.")
    tiles_inferred: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="That hold data and went to the server."
    )


class Client(_Part):
    """What the client took for one product, without the start of its process, which comes once."""

    cores: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="That it could use.")
    cpu_s: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="CPU seconds.")
    peak_rss_bytes: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Resident memory.")
    bytes_read: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Of the product.")
    requests: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="To an object store.")
    bytes_written: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Of all its files.")


class Server(_Part):
    """What the inference server took."""

    tiles_per_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Of one GPU, over the network; null without a GPU."
    )
    tiles_per_s_shared_memory: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Of one GPU, to clients on its machine."
    )
    cores: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="That it could use.")
    cpu_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="CPU seconds for one product; null with a GPU."
    )
    rss_bytes: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Resident memory.")
    request_bytes: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Per tile, sent to it.")
    answer_bytes: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Per tile, sent back.")


class BenchFile(_Part):
    """One measurement of one model, as `kappamask-stream plan` reads it."""

    schema_name: Literal["kappamask-stream/bench"] = Field(alias="schema")
    version: Literal[1]
    model: str = Field(min_length=1, description="Name of the served model, with its precision.")
    machine: Machine = Machine()
    product: MeasuredProduct = MeasuredProduct()
    client: Client = Client()
    server: Server = Server()


def read_bench(path: Path, *, shared_memory: bool = False) -> BenchFigures:
    """Read a file of measurements: of the schema above, or of the scripts in ``benchmarks/``.

    Parameters
    ----------
    shared_memory : take a GPU's rate over shared memory, which a worker on the server's machine has, where the file
        has both.

    Raises
    ------
    InputError
        If it cannot be read, or is none of these.
    """
    document = loaded(path)
    if "schema" in document:
        return _of_schema(document, path.name, shared_memory=shared_memory)
    figures = figures_of_earlier(document, path.name, "shared memory" if shared_memory else "gRPC")
    if figures is None:
        raise InputError(
            f"{path} holds no measurements that are known here: a file with schema {SCHEMA}, or one that a script of "
            "benchmarks/ has written, is expected"
        )
    return figures


def loaded(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        If it cannot be read, is none, or is larger than any file of measurements.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} has more than {_MOST_BYTES} bytes: it is no file of measurements")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {str(error)[:100]}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} holds no JSON object")
    return document


def require_version(document: dict[str, Any], name: str) -> None:
    """Refuse files of another schema, or another version of it.

    Raises
    ------
    InputError
        With both.
    """
    if document.get("schema") != SCHEMA or document.get("version") != VERSION:
        raise InputError(
            f"{name} has schema {str(document.get('schema'))[:60]}, version {str(document.get('version'))[:20]}; "
            f"{SCHEMA}, version {VERSION} is read here"
        )


def _of_schema(document: dict[str, Any], name: str, *, shared_memory: bool) -> BenchFigures:
    require_version(document, name)
    try:
        file = BenchFile.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise InputError(f"{name}: {where}: {first['msg']} (it is {str(first['input'])[:40]})") from error

    def figure(part: str, field: str) -> Figure | None:
        return Figure.of(getattr(getattr(file, part), field), f"{name}: {part}.{field}")

    shared = figure("server", "tiles_per_s_shared_memory") if shared_memory else None
    return BenchFigures(
        network=Network.of_model(file.model),
        gpu=file.machine.gpu,
        tiles=figure("product", "tiles"),
        tiles_inferred=figure("product", "tiles_inferred"),
        client_cpu_s=figure("client", "cpu_s"),
        client_cores=figure("client", "cores"),
        client_rss_bytes=figure("client", "peak_rss_bytes"),
        server_cpu_s=figure("server", "cpu_s"),
        server_cores=figure("server", "cores"),
        server_rss_bytes=figure("server", "rss_bytes"),
        gpu_tiles_per_s=shared or figure("server", "tiles_per_s"),
        bytes_read=figure("client", "bytes_read"),
        requests=figure("client", "requests"),
        request_bytes=figure("server", "request_bytes"),
        answer_bytes=figure("server", "answer_bytes"),
        bytes_written=figure("client", "bytes_written"),
    )
