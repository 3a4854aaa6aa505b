"""Values of the Helm chart: wrong ones are refused in words, right ones arrive as they were written."""

from __future__ import annotations

import json

import pytest
import yaml

from kappamask_stream.settings import Settings
from tests.unit.helm_chart import CHART, LEAST, template

#: What the chart sets by itself, so that values cannot.
MANAGED = {
    "triton", "listen", "server_env", "triton_ca", "triton_certificate", "triton_key", "triton_token_file",
}  # fmt: skip


def test_the_schema_knows_the_settings_there_are() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    allowed = schema["properties"]["worker"]["properties"]["settings"]["propertyNames"]["enum"]
    assert set(allowed) == set(Settings.model_fields) - MANAGED


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("worker.typo=1",), "worker: Additional property typo is not allowed"),
        (("worker.settings.outptu=x",), 'Property name of "outptu" does not match'),
        (("worker.settings.triton=grpc://x:1",), 'Property name of "triton" does not match'),
        (("worker.mode=cron",), 'worker.mode must be one of the following: "deployment", "job"'),
        (("triton.gpus=many",), "triton.gpus: Invalid type. Expected: integer, given: string"),
        (("images.worker.tag=latest",), "images.worker.tag"),
        (("worker.credentialsSecret=AKIAIOSFODNN7EXAMPLE",), "worker.credentialsSecret: Does not match pattern"),
        (("inference.kind=external",), "inference.endpoint must be set"),
        (("inference.endpoint=grpc://x:1",), "inference.kind is triton: it is used with external only"),
        (("worker.terminationGracePeriodSeconds=100",), "it must exceed worker.settings.grace_s, 100"),
        (("worker.mode=job", "worker.autoscaling.enabled=false"), "jobs are made by KEDA"),
        (("worker.queueRegion=",), "worker.queueRegion must be set"),
        (("worker.settings.queue=",), "worker.settings.queue and worker.settings.output must be set"),
        (("worker.terminationGracePeriodSeconds=100", "worker.settings.grace_s=null"), "worker.settings.grace_s, 100"),
        (
            ("worker.autoscaling.minReplicas=21",),
            "worker.autoscaling.minReplicas is 21: it must not exceed maxReplicas, 20",
        ),
        (
            ("triton.autoscaling.enabled=true", "triton.autoscaling.minReplicas=5"),
            "triton.autoscaling.minReplicas is 5: it must not exceed maxReplicas, 4",
        ),
        (("triton.terminationGracePeriodSeconds=15",), "it must exceed triton.preStopSeconds, 10, by more than 5"),
        (("triton.rollingUpdate.maxSurge=0%",), "maxSurge and maxUnavailable are both 0"),
        ((r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn=",), "KEDA takes on the role that"),
        (
            (r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn=", "networkPolicy.eksPodIdentity=true"),
            "set identityOwner to keda",
        ),
        (
            ("inference.tls.caSecret=ca",),
            "inference.tls.caSecret is set, which is for TLS, and triton.tls.secret is not",
        ),
        (("inference.tls.clientSecret=c",), "inference.tls.clientSecret is set, which is for TLS"),
        (
            ("inference.token.secret=t",),
            "inference.token.secret is set, which is for TLS, and triton.tls.secret is not",
        ),
        (("inference.token.secret=t", "inference.kind=local"), "a worker's own Triton is not reached over a network"),
        (
            ("inference.token.secret=t", "inference.kind=external", "inference.endpoint=grpc://gpu:8001"),
            "inference.endpoint is grpc://gpu:8001: give grpcs://HOST:PORT",
        ),
        (
            ("inference.tls.caSecret=ca", "inference.kind=external", "inference.endpoint=dns:///gpu:8001"),
            "inference.endpoint is dns:///gpu:8001: give grpcs://HOST:PORT",
        ),
        (("triton.tls.secret=tls",), "inference.tls.caSecret must name the CA that signed it"),
        (("inference.kind=external", "inference.endpoint=grpcs://gpu"), "inference.endpoint: Does not match pattern"),
        (("networkPolicy.httpsBlocks={169.254.169.254/32}",), "169.254.169.254/32 is link-local"),
        (("networkPolicy.httpsBlocks={fd00::/8}",), "fd00::/8 is no block of public IPv6 addresses"),
        (("networkPolicy.httpsBlocks={2000::/0}",), "2000::/0 is no block of public IPv6 addresses"),
        (("networkPolicy.httpsBlocks={0.0.0.0}",), "networkPolicy.httpsBlocks.0: Does not match pattern"),
        (("networkPolicy.serverBlocks=null",), "networkPolicy: serverBlocks is required"),
        (("networkPolicy.monitoringNamespaceLabels=null",), "networkPolicy: monitoringNamespaceLabels is required"),
        (("networkPolicy.dnsNamespaceLabels=null",), "networkPolicy: dnsNamespaceLabels is required"),
        (
            (r"networkPolicy.monitoringNamespaceLabels.kubernetes\.io/metadata\.name=null",),
            "networkPolicy.monitoringNamespaceLabels: Must have at least 1 properties",
        ),
        (("triton.tls.clientCaSecret=ca", "triton.tls.secret=tls"), "inference.tls.clientSecret must name"),
        (("triton.tls.clientCaSecret=ca", "inference.tls.clientSecret=c"), "the server needs a certificate of its own"),
    ],
)
def test_values_that_cannot_work_are_refused(values: tuple[str, ...], said: str) -> None:
    ended = template(*LEAST, *values)
    assert ended.returncode != 0
    assert said in ended.stderr


@pytest.mark.parametrize(
    "values",
    [
        ("worker.settings.grace_s=0", "worker.terminationGracePeriodSeconds=30"),
        ("worker.autoscaling.minReplicas=20",),
        ("worker.mode=job", "worker.autoscaling.minReplicas=21"),  # Jobs have no least number
        ("triton.preStopSeconds=0", "triton.terminationGracePeriodSeconds=10"),
        (
            r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn=",
            "networkPolicy.eksPodIdentity=true",
            "worker.autoscaling.identityOwner=keda",
        ),
        (r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn=", "worker.credentialsSecret=aws"),
        ("triton.tls.secret=tls", "inference.tls.caSecret=ca", "inference.token.secret=t"),
        ("inference.kind=external", "inference.endpoint=grpcs://gpu:8001", "inference.token.secret=t"),
        (
            r"networkPolicy.monitoringNamespaceLabels.kubernetes\.io/metadata\.name=null",
            "networkPolicy.monitoringNamespaceLabels.team=sky",
        ),
    ],
)
def test_values_that_work_are_not_refused(values: tuple[str, ...]) -> None:
    ended = template(*LEAST, *values)
    assert ended.returncode == 0, ended.stderr


def test_without_a_value_the_program_s_own_grace_counts() -> None:
    assert Settings().grace_s == 100
    assert "$grace := 100.0" in (CHART / "templates" / "_check.tpl").read_text()


def test_numbers_arrive_as_they_were_written() -> None:
    ended = template(*LEAST, "worker.settings.memory_budget_mb=2000000", "worker.settings.retry_after_s=0.5",
                     "worker.settings.allow={s3://a/,s3://b/}", "inference.kind=local")  # fmt: skip
    env = [entry for document in yaml.safe_load_all(ended.stdout) if document and document["kind"] == "Deployment"
           for entry in document["spec"]["template"]["spec"]["containers"][0]["env"]]  # fmt: skip
    found = {entry["name"]: entry["value"] for entry in env}
    assert found["KAPPAMASK_MEMORY_BUDGET_MB"] == "2000000"
    assert found["KAPPAMASK_RETRY_AFTER_S"] == "0.5"
    assert found["KAPPAMASK_ALLOW"] == "s3://a/,s3://b/"
