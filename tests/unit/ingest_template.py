"""deploy/aws/ingest.yaml with its parameters filled in: conditions decided, functions worked out, names left symbolic."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any

from cfnlint.decode import decode

from tests.unit.documents import ROOT

PATH = ROOT / "deploy" / "aws" / "ingest.yaml"
PSEUDO = {
    "AWS::StackName": "ingest",
    "AWS::Region": "eu-central-1",
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
}
#: Without one of these, the default parameters are no stack.
CLUSTER = {"OidcProvider": "oidc.eks.eu-central-1.amazonaws.com/id/ABCDEF"}
_NOTHING = object()


def load() -> dict[str, Any]:
    template, mistakes = decode(str(PATH))
    assert not mistakes
    return json.loads(json.dumps(template))


class Rendered:
    """The template's resources for some parameters; ``Queue.Arn`` and the like stand for what AWS would say."""

    def __init__(self, **parameters: str) -> None:
        self.template = load()
        unknown = set(parameters) - set(self.template["Parameters"])
        assert not unknown, unknown
        defaults = {name: str(said.get("Default", "")) for name, said in self.template["Parameters"].items()}
        self.values = {**defaults, **PSEUDO, **CLUSTER, **parameters}

    @cached_property
    def resources(self) -> dict[str, Any]:
        return {
            name: self._worked_out(said.get("Properties", {}))
            for name, said in self.template["Resources"].items()
            if self._holds(said.get("Condition"))
        }

    @cached_property
    def outputs(self) -> dict[str, Any]:
        said = self.template["Outputs"].items()
        return {name: self._worked_out(out["Value"]) for name, out in said if self._holds(out.get("Condition"))}

    def statements(self, name: str) -> dict[str, Any]:
        """Statements of a resource's policy, by Sid."""
        return {said["Sid"]: said for said in self.resources[name]["PolicyDocument"]["Statement"]}

    def _holds(self, condition: Any) -> bool:
        if condition is None:
            return True
        if isinstance(condition, str):
            return self._holds(self.template["Conditions"][condition])
        (((function, given)),) = condition.items()
        match function:
            case "Fn::Equals":
                return self._worked_out(given[0]) == self._worked_out(given[1])
            case "Fn::Not":
                return not self._holds(given[0])
            case "Fn::Or":
                return any(self._holds(one) for one in given)
            case "Condition":
                return self._holds(given)
        raise AssertionError(function)

    def _worked_out(self, node: Any) -> Any:
        if isinstance(node, list):
            return [value for one in node if (value := self._worked_out(one)) is not _NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (((name, given)),) = node.items()
            if name == "Ref" or name.startswith("Fn::"):
                return self._function(name, given)
        found = {name: self._worked_out(value) for name, value in node.items()}
        return {name: value for name, value in found.items() if value is not _NOTHING}

    def _function(self, name: str, given: Any) -> Any:
        match name:
            case "Ref":
                value: Any = _NOTHING if given == "AWS::NoValue" else self.values.get(given, given)
            case "Fn::If":
                value = self._worked_out(given[1] if self._holds(given[0]) else given[2])
            case "Fn::GetAtt":
                value = ".".join(given)
            case "Fn::Sub":
                text, own = given if isinstance(given, list) else (given, {})
                named = {**self.values, **self._worked_out(own)}
                value = re.sub(r"\$\{([^}]+)\}", lambda found: named.get(found[1], found[1]), text)
            case "Fn::Split":
                value = self._worked_out(given[1]).split(given[0])
            case "Fn::Select":
                value = self._worked_out(given[1])[int(given[0])]
            case _:
                raise AssertionError(name)
        return value
