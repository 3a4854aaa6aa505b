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
        (("triton.tls.clientCaSecret=ca", "triton.tls.secret=tls"), "inference.tls.clientSecret must name"),
        (("triton.tls.clientCaSecret=ca", "inference.tls.clientSecret=c"), "the server needs a certificate of its own"),
    ],
)
def test_values_that_cannot_work_are_refused(values: tuple[str, ...], said: str) -> None:
    ended = template(*LEAST, *values)
    assert ended.returncode != 0
    assert said in ended.stderr


def test_numbers_arrive_as_they_were_written() -> None:
    ended = template(*LEAST, "worker.settings.memory_budget_mb=2000000", "worker.settings.retry_after_s=0.5",
                     "worker.settings.allow={s3://a/,s3://b/}", "inference.kind=local")  # fmt: skip
    env = [entry for document in yaml.safe_load_all(ended.stdout) if document and document["kind"] == "Deployment"
           for entry in document["spec"]["template"]["spec"]["containers"][0]["env"]]  # fmt: skip
    found = {entry["name"]: entry["value"] for entry in env}
    assert found["KAPPAMASK_MEMORY_BUDGET_MB"] == "2000000"
    assert found["KAPPAMASK_RETRY_AFTER_S"] == "0.5"
    assert found["KAPPAMASK_ALLOW"] == "s3://a/,s3://b/"
