"""The Helm chart: manifests that a cluster takes, and what must hold in all of them."""

from __future__ import annotations

import inspect
import json
import re
from ipaddress import ip_network
from typing import Any

import kubernetes_validate
import pytest
import yaml

from kappamask_stream.inference.endpoint import parse_endpoint
from kappamask_stream.monitor import server as monitor_server
from kappamask_stream.settings import Settings
from tests.unit.helm_chart import (
    CHART,
    LEAST,
    NAMESPACE,
    RELEASE,
    ROOT,
    SETS,
    container,
    helm,
    of_kind,
    pods,
    rendered,
    template,
    variables,
)

CUSTOM = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}
EVERY_SET = pytest.mark.parametrize("name", SETS)


def test_helm_finds_nothing_to_complain_about() -> None:
    ended = helm("lint", "--strict", str(CHART), *[part for value in LEAST for part in ("--set", value)])
    assert ended.returncode == 0, ended.stdout + ended.stderr


@EVERY_SET
def test_a_cluster_takes_every_manifest(name: str) -> None:
    core = [document for document in rendered(name) if document["apiVersion"] not in CUSTOM]
    assert {"Deployment", "Service"} & {document["kind"] for document in core} or name in {"local", "external", "job"}
    for document in core:
        kubernetes_validate.validate(document, "1.35", strict=True)
    for component, pod in pods(name).items():  # those within Jobs of KEDA, too
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **pod}, "1.35", strict=True)
        assert component in {"worker", "triton"}


@EVERY_SET
def test_names_are_unique_and_all_lies_in_the_release(name: str) -> None:
    keys = [(document["kind"], document["metadata"]["name"]) for document in rendered(name)]
    assert len(set(keys)) == len(keys)
    for document in rendered(name):
        assert document["metadata"]["namespace"] == NAMESPACE
        assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE


@EVERY_SET
def test_pods_may_do_little(name: str) -> None:
    for component, pod in pods(name).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        security = container(name, component)["securityContext"]
        assert security == {
            "allowPrivilegeEscalation": False, "privileged": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip


@EVERY_SET
def test_images_are_of_one_version(name: str) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    for component in pods(name):
        image = container(name, component)["image"]
        assert re.fullmatch(rf"[a-z-]+(:{re.escape(version)}(-local)?|@sha256:[0-9a-f]{{64}})", image), image
        assert image.endswith("-local") == (name == "local")


def test_the_chart_is_of_the_programs_version() -> None:
    from kappamask_stream import __version__

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


@EVERY_SET
def test_variables_are_settings_and_no_secret_stands_in_a_manifest(name: str) -> None:
    given = {key.removeprefix("KAPPAMASK_").lower(): value for key, value in variables(name).items()
             if key.startswith("KAPPAMASK_")}  # fmt: skip
    names = [entry["name"] for entry in container(name, "worker")["env"]]
    assert len(set(names)) == len(names)
    assert set(given) <= set(Settings.model_fields)
    assert {"queue", "output", "grace_s", "listen"} <= set(given)
    Settings(**given)  # values are of the right kind, too
    assert not of_kind(name, "Secret")
    text = json.dumps(rendered(name)).lower()
    assert "aws_secret_access_key" not in text.replace('"key": "aws_secret_access_key"', "")


@EVERY_SET
def test_a_worker_that_must_go_has_time_to_finish(name: str) -> None:
    spec = pods(name)["worker"]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= float(variables(name)["KAPPAMASK_GRACE_S"] or 0) + 20
    assert "lifecycle" not in container(name, "worker")


@EVERY_SET
def test_probes_ask_for_what_is_served(name: str) -> None:
    served = set(re.findall(r'web\.get\("([^"{]*)"', inspect.getsource(monitor_server)))
    for component in pods(name):
        found = container(name, component)
        ports = {port["name"] for port in found["ports"]}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = found[kind]["httpGet"]
            assert asked["port"] in ports
            assert asked["path"] in (served if component == "worker" else {"/v2/health/live", "/v2/health/ready"})
    for monitor in of_kind(name, "PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")


@EVERY_SET
def test_every_selector_finds_pods_of_the_release(name: str) -> None:
    labels = {component: pod["metadata"]["labels"] for component, pod in pods(name).items()}
    for document in rendered(name):
        for selector in selectors_of(document):
            found = {component for component, has in labels.items() if selector.items() <= has.items()}
            assert found, (document["metadata"]["name"], selector)
            if "app.kubernetes.io/component" in selector:
                assert found == {selector["app.kubernetes.io/component"]}


def selectors_of(document: object) -> list[dict[str, str]]:
    """All selectors of pods in a manifest; those of namespaces are others' business."""
    found = []
    if isinstance(document, dict):
        for key, value in document.items():
            if key in {"selector", "podSelector", "labelSelector"}:
                found.append(value.get("matchLabels", value))
            elif key != "namespaceSelector":
                found += selectors_of(value)
    elif isinstance(document, list):
        found = [selector for entry in document for selector in selectors_of(entry)]
    return found


def ports_between(name: str, policy: str, direction: str, peer: str) -> set[int]:
    """Ports of a policy's rules for pods of a component."""
    (found,) = [each for each in of_kind(name, "NetworkPolicy") if each["metadata"]["name"] == f"{RELEASE}-{policy}"]
    return {
        port["port"]
        for rule in found["spec"][direction]
        for place in rule["to" if direction == "egress" else "from"]
        if place.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component") == peer
        for port in rule["ports"]
    }


def test_pods_talk_only_to_whom_they_must() -> None:
    policies = {document["metadata"]["name"]: document["spec"] for document in of_kind("default", "NetworkPolicy")}
    assert set(policies) == {f"{RELEASE}-deny", f"{RELEASE}-worker", f"{RELEASE}-triton"}
    assert policies[f"{RELEASE}-deny"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(policies[f"{RELEASE}-deny"])
    assert ports_between("default", "worker", "egress", "triton") == {8001, 8002}
    assert ports_between("default", "triton", "ingress", "worker") == {8001, 8002}
    assert policies[f"{RELEASE}-triton"]["egress"] == []
    (ingress,) = policies[f"{RELEASE}-worker"]["ingress"]
    assert ingress["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]  # fmt: skip
    assert [port["port"] for port in ingress["ports"]] == [9108]
    blocks = [place["ipBlock"] for rule in policies[f"{RELEASE}-worker"]["egress"] for place in rule["to"]
              if "ipBlock" in place]  # fmt: skip
    assert blocks == [{"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}, {"cidr": "169.254.169.254/32"}]


def worker_egress(*values: str) -> list[dict[str, Any]]:
    """Rules of the workers' policy that name blocks of addresses."""
    ended = template(*LEAST, *values)
    assert ended.returncode == 0, ended.stderr
    (policy,) = [document for document in yaml.safe_load_all(ended.stdout) if document
                 and (document["kind"], document["metadata"]["name"]) == ("NetworkPolicy", f"{RELEASE}-worker")]  # fmt: skip
    kubernetes_validate.validate(policy, "1.35", strict=True)
    rules: list[dict[str, Any]] = policy["spec"]["egress"]
    assert all(rule["to"] for rule in rules), "a rule without peers lets everything pass"
    return [rule for rule in rules if any("ipBlock" in place for place in rule["to"])]


def ports_of(rule: dict[str, Any]) -> list[int]:
    return [port["port"] for port in rule["ports"]]


def test_workers_reach_a_server_elsewhere() -> None:
    external = ("inference.kind=external", "inference.endpoint=grpcs://gpu.example:8443", "worker.settings.spot=false")
    _, server = worker_egress(*external)
    assert ports_of(server) == [8443]
    assert server["to"] == [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}]
    metrics = r"worker.settings.triton_metrics=http://gpu.example:8002/metrics\,https://[::1]/metrics"
    _, server = worker_egress(*external, metrics, "networkPolicy.serverBlocks={203.0.113.0/24}")
    assert ports_of(server) == [8443, 8002, 443]
    assert server["to"] == [{"ipBlock": {"cidr": "203.0.113.0/24"}}]


@pytest.mark.parametrize(
    "endpoint",
    [
        "grpc://10.0.0.1:8001", "grpc://10.0.0.1:8001,10.0.0.2:8002", "grpc://10.0.0.1:8001,grpc://10.0.0.2:8001",
        "grpcs://gpu.example:443/", "dns:///gpu.example:8001", "dns://10.0.0.53:5353/gpu.example:8001",
        "grpc://[2001:db8::1]:8001,[2001:db8::2]:8003",
    ],
)  # fmt: skip
def test_the_ports_of_an_endpoint_are_those_that_the_program_asks(endpoint: str) -> None:
    escaped = endpoint.replace(",", r"\,")
    _, server = worker_egress("inference.kind=external", f"inference.endpoint={escaped}", "worker.settings.spot=false")
    assert set(ports_of(server)) == {port for _, port in parse_endpoint(endpoint).hosts}


@pytest.mark.parametrize(
    ("block", "without"),
    [
        ("0.0.0.0/0", ["169.254.0.0/16"]), ("128.0.0.0/1", ["169.254.0.0/16"]), ("169.0.0.0/8", ["169.254.0.0/16"]),
        ("169.254.0.0/15", ["169.254.0.0/16"]), ("0.0.0.0/1", None), ("168.0.0.0/8", None), ("10.0.0.0/8", None),
        ("52.95.0.0/16", None), ("::/0", ["fe80::/10", "fd00:ec2::/32"]), ("2600:1f00::/24", None),
    ],
)  # fmt: skip
def test_no_block_holds_the_services_of_instances(block: str, without: list[str] | None) -> None:
    (https,) = worker_egress(f"networkPolicy.httpsBlocks={{{block}}}", "worker.settings.spot=false")
    assert https["to"] == [{"ipBlock": {"cidr": block} | ({"except": without} if without else {})}]
    network = ip_network(block)
    for local in map(ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32")):
        if local.version == network.version:
            assert local.overlaps(network) == (str(local) in (without or ()))


def test_no_blocks_are_nowhere() -> None:
    for values in ("networkPolicy.httpsBlocks=null", "networkPolicy.httpsBlocks=[]"):
        ended = helm("template", RELEASE, str(CHART), *[part for value in LEAST for part in ("--set", value)],
                     "--set", "worker.settings.spot=false", "--set-json", values)  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert "ipBlock" not in ended.stdout
        assert "443" not in ended.stdout


def test_triton_ends_within_its_grace_period() -> None:
    spec = pods("default")["triton"]["spec"]
    left = (
        spec["terminationGracePeriodSeconds"]
        - container("default", "triton")["lifecycle"]["preStop"]["sleep"]["seconds"]
    )
    assert int(variables("default", "triton")["EXIT_TIMEOUT_S"] or 0) == left - 5


def test_engines_of_tensorrt_are_kept_where_its_configurations_say() -> None:
    config = next((ROOT / "triton" / "generated" / "tensorrt").glob("*-network/config.pbtxt")).read_text()
    place = container("default", "triton")["volumeMounts"][2]
    assert place["name"] == "engines"
    assert f'key: "trt_timing_cache_path" value: "{place["mountPath"]}"' in config
    assert f"install -d -m 0777 {place['mountPath']}\n" in (ROOT / "deploy" / "containers" / "Dockerfile").read_text()
    claimed = template(*LEAST, "triton.engineCache.claim=engines-of-h200")
    for ended, expected in ((template(*LEAST), {"emptyDir": {"sizeLimit": "4Gi"}}),
                            (claimed, {"persistentVolumeClaim": {"claimName": "engines-of-h200"}})):  # fmt: skip
        (pod,) = [d["spec"]["template"]["spec"] for d in yaml.safe_load_all(ended.stdout)
                  if d and d["kind"] == "Deployment" and d["metadata"]["name"].endswith("-triton")]  # fmt: skip
        assert {"name": "engines", **expected} in pod["volumes"]


def test_who_does_not_watch_for_spot_notices_cannot_ask_the_instance_for_anything() -> None:
    assert "169.254.169.254" in json.dumps(of_kind("default", "NetworkPolicy"))
    assert "169.254.169.254" not in json.dumps(of_kind("everything", "NetworkPolicy"))


def test_workers_reach_every_replica_of_triton() -> None:
    (service,) = [each for each in of_kind("default", "Service") if each["spec"].get("clusterIP") == "None"]
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    place = f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert variables("default")["KAPPAMASK_TRITON"] == f"dns:///{place}:{ports['grpc']}"
    assert variables("default")["KAPPAMASK_TRITON_METRICS"] == f"http://{place}:{ports['metrics']}/metrics"
    assert variables("tls")["KAPPAMASK_TRITON"] == f"grpcs://{place}:{ports['grpc']}"
    assert variables("external")["KAPPAMASK_TRITON"] == "grpcs://gpu.example:8443"
    assert not {name for name in variables("local") if "TRITON" in name}
    for name in SETS:
        if "KAPPAMASK_TRITON" in variables(name):
            parse_endpoint(variables(name)["KAPPAMASK_TRITON"] or "")
    assert int(variables("default", "triton")["CONNECTION_AGE_MS"] or 0) > 0


def test_certificates_and_tokens_lie_where_the_programs_look() -> None:
    for component, prefix in (("worker", "/etc/kappamask/"), ("triton", "/etc/triton/")):
        spec, only = pods("tls")[component]["spec"], container("tls", component)
        mounts = {mount["mountPath"]: mount["name"] for mount in only["volumeMounts"]}
        secrets = {volume["name"]: volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
        named = [value for value in variables("tls", component).values() if value and value.startswith(prefix)]
        named += [value for argument in only["args"] for _, _, value in [argument.partition("=")]
                  if value.startswith(prefix)]  # fmt: skip
        assert {secrets[mounts[path.rpartition("/")[0]]] for path in named} == set(secrets.values())
    assert pods("tls")["triton"]["spec"]["containers"][0]["env"][-1] == {
        "name": "RESTRICTED_KEY", "valueFrom": {"secretKeyRef": {"name": "operators", "key": "key"}},
    }  # fmt: skip


def test_a_gpu_and_shared_memory_are_asked_for() -> None:
    only = container("default", "triton")
    assert only["resources"]["limits"]["nvidia.com/gpu"] == only["resources"]["requests"]["nvidia.com/gpu"] == "1"
    for name, component in (("default", "triton"), ("local", "worker")):
        mounts = {mount["mountPath"]: mount["name"] for mount in container(name, component)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pods(name)[component]["spec"]["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert set(pods("local")) == {"worker"}


def test_keda_scales_workers_by_the_queue() -> None:
    (scaled,) = of_kind("default", "ScaledObject")
    (deployment,) = [each for each in of_kind("default", "Deployment") if each["metadata"]["name"].endswith("-worker")]
    assert scaled["spec"]["scaleTargetRef"] == {"name": deployment["metadata"]["name"]}
    assert "replicas" not in deployment["spec"]  # two would set it
    (trigger,) = scaled["spec"]["triggers"]
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert trigger["metadata"]["queueURL"] == variables("default")["KAPPAMASK_QUEUE"]
    assert trigger["metadata"]["scaleOnInFlight"] == "true"
    (authentication,) = of_kind("default", "TriggerAuthentication")
    assert trigger["authenticationRef"] == {"name": authentication["metadata"]["name"]}
    assert authentication["spec"] == {"podIdentity": {"provider": "aws", "identityOwner": "workload"}}
    (keys,) = of_kind("everything", "TriggerAuthentication")
    assert {entry["name"] for entry in keys["spec"]["secretTargetRef"]} == {"aws"}


def test_as_jobs_workers_end_with_the_queue() -> None:
    (scaled,) = of_kind("job", "ScaledJob")
    assert not of_kind("job", "ScaledObject")
    assert scaled["spec"]["rollout"] == {"strategy": "gradual"}
    assert scaled["spec"]["scalingStrategy"] == {"strategy": "accurate"}
    assert scaled["spec"]["triggers"][0]["metadata"]["scaleOnInFlight"] == "false"
    assert container("job", "worker")["args"] == ["worker", "--model", "csmask", "--until-empty"]
    assert pods("job")["worker"]["spec"]["restartPolicy"] == "OnFailure"


def test_triton_scales_by_the_time_in_its_queue() -> None:
    (scaler,) = of_kind("everything", "HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    (rules,) = [each for each in of_kind("everything", "ConfigMap") if "rules.yaml" in each["data"]]
    (rule,) = yaml.safe_load(rules["data"]["rules.yaml"])
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    for series in ("nv_inference_queue_duration_us", "nv_inference_count"):
        assert series in rule["metricsQuery"]
    assert "replicas" not in next(
        each["spec"] for each in of_kind("everything", "Deployment") if each["metadata"]["name"].endswith("-triton")
    )


def test_alerts_and_dashboard_are_those_of_deploy_monitoring() -> None:
    source = ROOT / "deploy" / "monitoring"
    (rule,) = of_kind("everything", "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((source / "alerts.yaml").read_text())
    (board,) = [each for each in of_kind("everything", "ConfigMap") if "kappamask-stream.json" in each["data"]]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["kappamask-stream.json"]) == json.loads(
        (source / "grafana-dashboard.json").read_text()
    )
