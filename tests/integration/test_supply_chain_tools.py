"""pip-audit against a vulnerability service over a socket, and what is said where there is none; the bill of materials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.local_state import PATIENCE_S
from tests.integration.s3_servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
CANARY = {"jinja2": "PYSEC-2019-217"}


@pytest.fixture
def audit_env() -> Path:
    """The environment of `make audit`."""
    path = Path(os.environ.get("KAPPAMASK_AUDIT_ENV") or ROOT / ".venv-audit")
    if not (path / "bin" / "pip-audit").exists():
        pytest.skip(f"no pip-audit at {path} (make audit, or set KAPPAMASK_AUDIT_ENV)")
    return path


class Osv(ThreadingHTTPServer):
    """Speaks OSV's query: names one vulnerability of each package of `known`; breaks on those of `broken`."""

    def __init__(self, known: dict[str, str], broken: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.known, self.broken, self.asked = known, broken, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/query"


class _Handler(BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.server.asked.append(f"{name}=={query['version']}")
        self.send_response(503 if name in self.server.broken else 200)
        self.end_headers()
        found: dict[str, Any] = {}
        if name in self.server.known:
            affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": []}]
            found = {"vulns": [{"id": self.server.known[name], "summary": "bad", "affected": affected}]}
        self.wfile.write(json.dumps(found).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def osv(request: pytest.FixtureRequest) -> Iterator[Osv]:
    with Osv(**request.param) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join(PATIENCE_S)


def audit(environment: Path, url: str, folder: Path) -> tuple[int, str]:
    pins = folder / "pins.txt"
    pins.write_text("# a comment\nnumpy==2.4.6\nyarl==1.25.1\n")
    ended = subprocess.run(
        [str(environment / "bin" / "python"), str(ROOT / "deploy/supply-chain/audit.py"), "--osv-url", url, str(pins)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("osv", [{"known": CANARY}], indirect=True)
def test_nothing_known_is_said_of_so_many_packages(audit_env: Path, osv: Osv, tmp_path: Path) -> None:
    code, said = audit(audit_env, osv.url, tmp_path)
    assert code == 0
    assert "2 packages audited with osv, 0 known vulnerabilities" in said
    assert sorted(osv.asked) == ["jinja2==2.10", "numpy==2.4.6", "yarl==1.25.1"]


@pytest.mark.parametrize("osv", [{"known": {**CANARY, "yarl": "GHSA-made-up"}}], indirect=True)
def test_a_finding_fails(audit_env: Path, osv: Osv, tmp_path: Path) -> None:
    code, said = audit(audit_env, osv.url, tmp_path)
    assert code == 1
    assert "yarl 1.25.1: GHSA-made-up, not fixed yet" in said


@pytest.mark.parametrize("osv", [{"known": {}}], indirect=True)
def test_a_service_that_knows_nothing_is_not_believed(audit_env: Path, osv: Osv, tmp_path: Path) -> None:
    code, said = audit(audit_env, osv.url, tmp_path)
    assert code == 0
    assert "not audited with osv: it knows nothing of jinja2==2.10, which has known vulnerabilities" in said
    assert "not audited: no service tells known vulnerabilities here" in said
    assert osv.asked == ["jinja2==2.10"]


@pytest.mark.parametrize("osv", [{"known": CANARY, "broken": ("yarl",)}], indirect=True)
def test_a_service_that_breaks_off_is_a_failure(audit_env: Path, osv: Osv, tmp_path: Path) -> None:
    code, said = audit(audit_env, osv.url, tmp_path)
    assert code == 1
    assert "pins.txt: not audited: " in said


def test_where_nobody_answers_it_is_said_and_no_failure(audit_env: Path, tmp_path: Path) -> None:
    code, said = audit(audit_env, f"http://127.0.0.1:{free_port()}/v1/query", tmp_path)
    assert code == 0
    assert "not audited: no service tells known vulnerabilities here" in said
    assert "Connection refused" in said


def test_the_bill_of_materials_holds_what_the_client_needs(audit_env: Path, tmp_path: Path) -> None:
    output = tmp_path / "sbom" / "bill.json"
    command = [str(audit_env / "bin" / "python"), str(ROOT / "deploy/supply-chain/sbom.py"), sys.prefix]
    ended = subprocess.run(
        [*command, str(ROOT / "pyproject.toml"), str(output)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "CycloneDX 1.6, valid" in ended.stdout
    bill = json.loads(output.read_bytes())
    found = {component["name"].lower() for component in bill["components"]}
    assert {"numpy", "rasterio", "aiobotocore", "typer"} <= found
    assert {"pytest", "hypothesis", "mypy"}.isdisjoint(found)
    # cyclonedx-bom's own graph is the second opinion: what hangs from the client is all of it, and nothing hangs loose.
    graph = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    reached, pending = set[str](), [bill["metadata"]["component"]["bom-ref"]]
    while pending:
        reached.add(ref := pending.pop())
        pending += [other for other in graph[ref] if other not in reached]
    assert reached == {component["bom-ref"] for component in bill["components"]} | {"root-component"}
    assert str(ROOT) not in output.read_text()
