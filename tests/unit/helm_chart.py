"""The Helm chart, rendered by Helm as a user would; skips where there is no Helm."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "kappamask-stream"
RELEASE, NAMESPACE = "masks", "clouds"
#: What a user must set, and no more.
LEAST = (
    "worker.settings.queue=https://sqs.eu-central-1.amazonaws.com/123456789012/products",
    "worker.settings.output=s3://masks/2026",
    "worker.queueRegion=eu-central-1",
    r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn=arn:aws:iam::123456789012:role/masks",
)
TLS = (
    "triton.tls.secret=triton-tls",
    "triton.tls.clientCaSecret=client-ca",
    "inference.tls.caSecret=ca",
    "inference.tls.clientSecret=worker-tls",
    "inference.token.secret=token",
)
#: Sets of values, each of which must render to what a cluster takes.
SETS: dict[str, tuple[str, ...]] = {
    "default": LEAST,
    "job": (*LEAST, "worker.mode=job", "monitoring.podMonitors=true"),
    "tls": (*LEAST, *TLS, "triton.restrictedKey.secret=operators"),
    "local": (*LEAST, "inference.kind=local", "worker.model=kappamask"),
    "external": (*LEAST, *TLS[2:], "inference.kind=external", "inference.endpoint=grpcs://gpu.example:8443",
                 "worker.settings.triton_metrics=http://gpu.example:8002/metrics"),
    "everything": (
        *LEAST, "triton.autoscaling.enabled=true", "monitoring.podMonitors=true", "monitoring.rules=true",
        "monitoring.dashboard=true", "monitoring.labels.release=prometheus", "triton.models.claim=models",
        "worker.credentialsSecret=aws", "worker.profilesSecret=profiles", "worker.settings.s3_profile=cdse",
        "worker.settings.spot=false", "images.worker.digest=sha256:" + "ab" * 32, "images.pullSecrets={registry}",
        "worker.nodeSelector.disk=ssd", "triton.runtimeClassName=nvidia", "worker.priorityClassName=low",
    ),
    "plain": (
        *LEAST[:2], "triton.strategy=Recreate", "worker.autoscaling.enabled=false", "networkPolicy.enabled=false", "serviceAccount.create=false",
        "worker.podDisruptionBudget.enabled=false", "triton.podDisruptionBudget.enabled=false",
    ),
}  # fmt: skip


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm, that of the development packages if it is there."""
    beside = Path(sys.executable).with_name("helm")
    program = str(beside) if beside.exists() else shutil.which("helm")
    if program is None:
        pytest.skip("no Helm on this machine (a development package on Linux x86-64)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def template(*values: str) -> subprocess.CompletedProcess[str]:
    """Render the chart with values as ``--set`` takes them."""
    sets = [argument for value in values for argument in ("--set", value)]
    return helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *sets)


@cache
def rendered(name: str) -> tuple[dict[str, Any], ...]:
    """Return the manifests of a set of values; do not change them."""
    ended = template(*SETS[name])
    assert ended.returncode == 0, ended.stderr
    return tuple(document for document in yaml.safe_load_all(ended.stdout) if document)


def of_kind(name: str, kind: str) -> list[dict[str, Any]]:
    return [document for document in rendered(name) if document["kind"] == kind]


def pods(name: str) -> dict[str, dict[str, Any]]:
    """Return the pod templates by component: ``worker``, ``triton``."""
    found = {}
    for document in rendered(name):
        spec = document.get("spec", {})
        pod = spec.get("jobTargetRef", spec).get("template") if isinstance(spec, dict) else None
        if pod is not None:
            found[pod["metadata"]["labels"]["app.kubernetes.io/component"]] = pod
    return found


def container(name: str, component: str) -> dict[str, Any]:
    (only,) = pods(name)[component]["spec"]["containers"]
    return only


def variables(name: str, component: str = "worker") -> dict[str, str | None]:
    return {entry["name"]: entry.get("value") for entry in container(name, component)["env"]}
