"""The dashboard and the alert rules ask for what there is: names, labels, expressions that Prometheus would take."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml

from tests.unit.monitor_scene import busy_metrics

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "deploy/monitoring/grafana-dashboard.json").read_text())
ALERTS = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/monitoring/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]

#: Triton's own, with their labels; `up` is Prometheus's.
FOREIGN = {
    "nv_inference_count": {"model", "version"},
    "nv_inference_exec_count": {"model", "version"},
    "nv_inference_queue_duration_us": {"model", "version"},
    "nv_inference_compute_infer_duration_us": {"model", "version"},
    "nv_inference_pending_request_count": {"model", "version"},
    "nv_gpu_utilization": {"gpu_uuid"},
    "nv_gpu_memory_used_bytes": {"gpu_uuid"},
    "nv_gpu_power_usage": {"gpu_uuid"},
    "up": set(),
}  # fmt: skip
#: Labels that Prometheus gives to all that it scrapes.
TARGET = {"job", "instance"}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


EXPRESSIONS = [
    *[
        pytest.param(t["expr"], t["legendFormat"], id=f"{p['title']} {t['refId']}")
        for p in panels()
        for t in p["targets"]
    ],
    *[pytest.param(rule["expr"], " ".join(rule["annotations"].values()), id=rule["alert"]) for rule in ALERTS],
]


@pytest.fixture
async def known(csmask_contract: ModelContract, tmp_path: Path) -> dict[str, set[str]]:
    """Label names per sample name, as a scrape shows them after one of everything."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in FOREIGN.items()}
    for family in (await busy_metrics(csmask_contract, tmp_path)).registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def parsed(expression: str) -> Any:
    return promql_parser.parse(expression.replace("$__rate_interval", "5m"))


def selectors(expression: str) -> list[Any]:
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(parsed(expression), visit)
    return found


def matched(selector: Any) -> set[str]:
    return {matcher.name for matcher in selector.matchers.matchers}


def grouped(expression: str) -> set[str]:
    """Labels that are grouped or joined by."""
    lists = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expression)
    return {label.strip() for found in lists for label in found.split(",")}


@pytest.mark.parametrize(("expression", "text"), EXPRESSIONS)
def test_expressions_ask_for_what_there_is(known: dict[str, set[str]], expression: str, text: str) -> None:
    found = selectors(expression)
    assert found
    labels = set(TARGET)
    for selector in found:
        assert selector.name in known, selector.name
        assert matched(selector) <= known[selector.name] | TARGET, selector.name
        labels |= known[selector.name]
    assert grouped(expression) <= labels
    shown = set(re.findall(r"{{\s*(?:\$labels\.)?(\w+)\s*}}", text))
    assert shown <= (grouped(expression) or labels)


def test_the_check_finds_what_is_wrong(known: dict[str, set[str]]) -> None:
    with pytest.raises(ValueError, match="left parenthesis"):
        parsed("sum(rate(kappamask_tiles_total[5m])")
    with pytest.raises(ValueError, match="summe"):
        parsed("summe(kappamask_tiles_total)")
    (selector,) = selectors('sum by (kind) (rate(kappamask_tiles_total{colour="red"}[5m]))')
    assert (selector.name, matched(selector)) == ("kappamask_tiles_total", {"colour"})
    assert "colour" not in known["kappamask_tiles_total"]
    assert "kappamask_tiles" not in known


def test_values_of_labels_are_those_that_the_code_has(known: dict[str, set[str]]) -> None:
    """A rule for an outcome that does not exist would never fire."""
    words = {
        "outcome": {"done", "filtered", "retry", "poison", "released", "lost"},
        "status": {"done", "found", "failed", "stopped"},
        "phase": {"starting", "taking", "paused", "draining", "ended"},
        "state": {"waiting", "in_work"},
    }
    seen = set()
    for param in EXPRESSIONS:
        for selector in selectors(str(param.values[0])):
            for matcher in selector.matchers.matchers:
                if matcher.name in words:
                    seen.add(matcher.name)
                    assert set(matcher.value.split("|")) <= words[matcher.name]
    assert seen == set(words)


def test_the_dashboard_can_be_imported() -> None:
    """Every data source is the variable's, every panel has a place of its own, a unit and a description."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert DASHBOARD["id"] is None
    asked = [variable["query"]["query"] for variable in variables.values() if variable["type"] == "query"]
    assert [re.match(r"label_values\((\w+)", query)[1] for query in asked] == ["kappamask_build_info"] * 2  # type: ignore[index]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["description"], panel["title"]
        for holder in (panel, *panel["targets"]):
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        unit = panel["options"].get("yAxis", panel["fieldConfig"]["defaults"]).get("unit")
        assert unit, panel["title"]
        used = set(re.findall(r"\$(?!__)(\w+)", json.dumps(panel["targets"])))
        assert used <= set(variables)


def test_memory_is_told_before_a_worker_is_ended_for_it() -> None:
    """A limit above that of the container would never fire; one that a full product reaches would always."""
    (rule,) = [rule for rule in ALERTS if rule["alert"] == "KappamaskMemory"]
    threshold = float(re.search(r"> ([\d.e]+)", rule["expr"])[1])  # type: ignore[index]
    values = yaml.safe_load((ROOT / "deploy/helm/kappamask-stream/values.yaml").read_text())
    allowed = int(values["worker"]["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    compose = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())["services"]["worker"]["mem_limit"]
    usual = json.loads((ROOT / "benchmarks/results_2cores_kappamask_deeplab.json").read_text())["ours"][
        "peak_rss_bytes"
    ]
    assert 1.5 * usual < threshold < 0.9 * min(allowed, int(compose.removesuffix("m")) * 2**20)


def test_a_backfill_that_goes_well_is_no_alert() -> None:
    """Its messages grow older to its end; that more and more of them wait is what is wrong."""
    (rule,) = [rule for rule in ALERTS if rule["alert"] == "KappamaskQueueAging"]
    asked = {
        selector.name: {matcher.value for matcher in selector.matchers.matchers} for selector in selectors(rule["expr"])
    }
    assert asked == {"kappamask_queue_age_seconds": set(), "kappamask_queue_messages": {"waiting"}}
    assert re.search(r"and on \(job\) .*deriv\(kappamask_queue_messages.*> 0$", rule["expr"].strip())


def test_what_a_hung_worker_saw_last_is_not_taken_for_now() -> None:
    for param in EXPRESSIONS:
        expression = str(param.values[0])
        if re.search(r"kappamask_(queue_\w+|server_pending_requests)", expression) and "deriv(" not in expression:
            assert "unless on (job, instance) kappamask_report_age_seconds > 60" in expression, param.id


def test_every_alert_says_what_and_what_to_do() -> None:
    documented = (ROOT / "docs" / "monitoring.md").read_text()
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert f"| `{rule['alert']}` |" in documented
    assert set(re.findall(r"^\| `((?:Kappamask|Triton)\w+)` \|", documented, re.MULTILINE)) == set(names)
