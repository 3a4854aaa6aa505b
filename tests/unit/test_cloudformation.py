"""The CloudFormation template: valid, safe, and with exactly the rights that the code uses."""

from __future__ import annotations

import ast
import json
import re
import socket
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from botocore import xform_name
from cfnlint.api import lint
from cfnlint.config import ManualArgs

from kappamask_stream.feed.places import DEFAULT_PLACES
from kappamask_stream.settings import Settings
from tests.unit.documents import ROOT, commands_in
from tests.unit.ingest_template import PATH, Rendered, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENT = ROOT / "kappamask_stream"
REGIONS = ["eu-central-1", "eu-west-1", "us-west-2"]
RUNS_ON = ["eks-irsa", "eks-pod-identity", "ec2", "elsewhere"]

#: What IAM calls the right to each operation that the code uses ("Actions, resources, and condition keys for …").
ACTIONS = {
    "receive_message": "sqs:ReceiveMessage",
    "change_message_visibility": "sqs:ChangeMessageVisibility",
    "change_message_visibility_batch": "sqs:ChangeMessageVisibility",
    "delete_message": "sqs:DeleteMessage",
    "delete_message_batch": "sqs:DeleteMessage",
    "send_message_batch": "sqs:SendMessage",
    "get_queue_attributes": "sqs:GetQueueAttributes",
    "get_queue_url": "sqs:GetQueueUrl",
    "publish": "sns:Publish",
    "list_objects_v2": "s3:ListBucket",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "delete_object": "s3:DeleteObject",
}
_READS = {"head_object", "get_object"}
_WRITES = {"put_object", "create_multipart_upload", "upload_part", "complete_multipart_upload"}
_HIDES = {"change_message_visibility", "change_message_visibility_batch"}
_DELETES = {"delete_message", "delete_message_batch"}
#: Which operations `worker` uses on what, by statement of its policy.
WORKER = {
    "TakeMessages": {"receive_message", "get_queue_attributes", *_HIDES, *_DELETES},
    "SetPoisonAside": {"send_message_batch", "get_queue_url"},  # `queues.burial`; the redrive policy names an ARN
    "ReadProducts": _READS,
    "ListProductsAndMasks": {"list_objects_v2"},
    "WriteMasks": {*_READS, *_WRITES, "abort_multipart_upload", "delete_object"},
    "TellOfMasks": {"publish"},
}
#: The same for `submit` and `queue`.
OPERATOR = {
    "FillTheQueueAndLookAtIt": {"send_message_batch", "receive_message", "get_queue_attributes", *_HIDES},
    "LookAtDeadLettersAndSendThemBack": {
        "receive_message", "get_queue_attributes", "get_queue_url", *_HIDES, *_DELETES,
    },
}  # fmt: skip


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **_: object) -> None:
        raise AssertionError(f"a connection was tried: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def findings(text: str) -> list[str]:
    found = lint(text, config=ManualArgs(regions=REGIONS, include_checks=["I"]))
    return [f"{match.rule.id} line {match.linenumber}: {match.message}" for match in found]


@pytest.mark.usefixtures("no_network")
def test_cfn_lint_finds_nothing() -> None:
    assert findings(PATH.read_text()) == []


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("good", "bad", "rule"),
    [
        ("sqs:ReceiveMessage", "sqs:RecieveMessage", "W3037"),
        ("SqsManagedSseEnabled", "SqsManagedSse", "E3002"),
    ],
)
def test_cfn_lint_would_find_mistakes(good: str, bad: str, rule: str) -> None:
    text = PATH.read_text()
    assert good in text
    assert any(found.startswith(rule) for found in findings(text.replace(good, bad)))


def test_every_parameter_is_described_and_in_a_group() -> None:
    template = load()
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    assert sorted(grouped) == sorted(template["Parameters"])
    readme = (PATH.parent / "README.md").read_text()
    for name, parameter in template["Parameters"].items():
        assert parameter["Description"]
        assert f"`{name}`" in readme, f"README.md does not mention {name}"


def test_defaults_pass_their_own_patterns() -> None:
    for name, parameter in load()["Parameters"].items():
        default = str(parameter.get("Default", ""))
        if pattern := parameter.get("AllowedPattern"):
            assert re.fullmatch(pattern, default), name
        if values := parameter.get("AllowedValues"):
            assert default in values, name


# ---------------------------------------------------------------- queue and topics


def test_the_queue_fits_the_worker() -> None:
    resources, settings = Rendered().resources, Settings()
    queue, dead = resources["Queue"], resources["DeadLetterQueue"]
    assert int(queue["VisibilityTimeout"]) == settings.visibility_s
    assert queue["ReceiveMessageWaitTimeSeconds"] == settings.queue_wait_s
    assert queue["MessageRetentionPeriod"] == dead["MessageRetentionPeriod"] == 14 * 86_400
    assert queue["SqsManagedSseEnabled"] is dead["SqsManagedSseEnabled"] is True
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == "DeadLetterQueue.Arn"
    assert dead["RedriveAllowPolicy"] == {
        "redrivePermission": "byQueue",
        "sourceQueueArns": [f"arn:aws:sqs:eu-central-1:123456789012:{queue['QueueName']}"],
    }


def test_one_failed_delivery_never_makes_a_dead_letter() -> None:
    parameter = load()["Parameters"]["MaxReceiveCount"]
    assert parameter["MinValue"] >= 5
    assert parameter["MinValue"] <= parameter["Default"]
    assert Rendered().resources["Queue"]["RedrivePolicy"]["maxReceiveCount"] == str(parameter["Default"])


@pytest.mark.parametrize("takes", [(), ("L2A",), ("L1C",), ("L2A", "L1C", "EarthSearch")], ids=str)
def test_only_topics_that_are_subscribed_may_send(takes: tuple[str, ...]) -> None:
    topics = ("L2A", "L1C", "EarthSearch")
    rendered = Rendered(**{f"Subscribe{topic}": str(topic in takes).lower() for topic in topics})
    subscribed = {name for name in rendered.resources if name.endswith("Subscription")}
    assert subscribed == {f"{topic}Subscription" for topic in takes}
    assert ("SilentFeedAlarm" in rendered.resources) is bool(takes)
    allowed = {sid: said for sid, said in rendered.statements("QueuePolicy").items() if said["Effect"] == "Allow"}
    if not takes:
        assert allowed == {}
        return
    assert allowed.keys() == {"TheseTopicsMaySend"}
    statement = allowed["TheseTopicsMaySend"]
    assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
    assert (statement["Action"], statement["Resource"]) == ("sqs:SendMessage", "Queue.Arn")
    arns = [rendered.resources[f"{topic}Subscription"]["TopicArn"] for topic in takes]
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": arns}}


def test_subscriptions_are_made_in_the_topics_own_regions() -> None:
    rendered = Rendered(SubscribeL1C="true", SubscribeEarthSearch="true")
    regions = {
        said["TopicArn"]: (said["Region"], said["Endpoint"], said["Protocol"])
        for name, said in rendered.resources.items()
        if name.endswith("Subscription")
    }
    assert regions == {
        "arn:aws:sns:eu-central-1:214830741341:SentinelS2L2A": ("eu-central-1", "Queue.Arn", "sqs"),
        "arn:aws:sns:eu-west-1:214830741341:NewSentinel2Product": ("eu-west-1", "Queue.Arn", "sqs"),
        "arn:aws:sns:us-west-2:608149789419:cirrus-es-prod-publish": ("us-west-2", "Queue.Arn", "sqs"),
    }


def test_topics_are_those_of_the_documentation() -> None:
    said = set(re.findall(r"arn:aws:sns:[\w:-]+", (ROOT / "docs" / "messages.md").read_text()))
    assert said == {Rendered().values[f"{topic}Topic"] for topic in ("L2A", "L1C", "EarthSearch")}


def test_filters_of_amazons_topics_are_of_the_body_as_their_messages_have_no_attributes() -> None:
    given = json.dumps({"tiles": {"utmZone": [34, 35]}})
    filtered = Rendered(SubscribeL1C="true", L1CFilter=given).resources
    assert filtered["L1CSubscription"]["FilterPolicy"] == given
    assert filtered["L1CSubscription"]["FilterPolicyScope"] == "MessageBody"
    assert {"FilterPolicy", "FilterPolicyScope"}.isdisjoint(filtered["L2ASubscription"])


def test_of_earth_search_comes_one_collection_unless_something_else_is_said() -> None:
    """Its topic carries Landsat, Sentinel-1 and others, and each product of level 2A in two collections."""
    subscription = Rendered(SubscribeEarthSearch="true").resources["EarthSearchSubscription"]
    assert json.loads(subscription["FilterPolicy"]) == {"collection": ["sentinel-2-l2a"]}
    assert subscription["FilterPolicyScope"] == "MessageAttributes"
    everything = Rendered(SubscribeEarthSearch="true", EarthSearchFilter="").resources["EarthSearchSubscription"]
    assert {"FilterPolicy", "FilterPolicyScope"}.isdisjoint(everything)


def test_a_bucket_of_ones_own_may_send_and_be_read() -> None:
    rendered = Rendered(OwnSourceBucket="own")
    statement = rendered.statements("QueuePolicy")["OwnBucketMaySend"]
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert statement["Condition"] == {
        "ArnEquals": {"aws:SourceArn": "arn:aws:s3:::own"},
        "StringEquals": {"aws:SourceAccount": "123456789012"},
    }
    worker = rendered.statements("WorkerPolicy")
    assert "arn:aws:s3:::own/*" in worker["ReadProducts"]["Resource"]
    assert "arn:aws:s3:::own" in worker["ListProductsAndMasks"]["Resource"]


# ---------------------------------------------------------------- bucket


def test_masks_are_kept_private_and_encrypted() -> None:
    resources = Rendered().resources
    bucket = resources["Bucket"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    days = [rule.get("AbortIncompleteMultipartUpload") for rule in bucket["LifecycleConfiguration"]["Rules"]]
    assert {"DaysAfterInitiation": 1} in days
    assert Rendered(Versioning="Enabled").resources["Bucket"]["VersioningConfiguration"] == {"Status": "Enabled"}


def test_what_must_not_be_lost_outlives_the_stack() -> None:
    resources = load()["Resources"]
    for name in ("Queue", "DeadLetterQueue", "Bucket"):
        assert resources[name]["DeletionPolicy"] == resources[name]["UpdateReplacePolicy"] == "Retain"


@pytest.mark.parametrize(
    ("policy", "actions"),
    [
        ("QueuePolicy", "sqs:*"),
        ("DeadLetterQueuePolicy", "sqs:*"),
        ("BucketPolicy", "s3:*"),
        ("FinishedTopicPolicy", "sns:Publish"),
    ],
)
def test_nothing_is_said_without_tls(policy: str, actions: str) -> None:
    statement = Rendered().statements(policy)["OnlyOverTls"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", actions)
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


# ---------------------------------------------------------------- rights


def operations() -> set[str]:
    """Every operation of S3, SQS, SNS and others that modules which hold a client name, in a text or as a method."""
    session, known = botocore.session.Session(), set()
    for service in ("s3", "sqs", "sns", "sts", "kms"):
        known |= {xform_name(name) for name in session.get_service_model(service).operation_names}
    known |= {"generate_presigned_post", "upload_file", "upload_fileobj", "download_file", "download_fileobj"}
    named: set[str] = set()
    for path in with_clients():
        named |= set(names_in(path)) & known
    return named


def with_clients() -> list[Path]:
    return [path for folder in ("s3", "queues") for path in sorted((CLIENT / folder).glob("*.py"))]


def names_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Attribute) and "_" in node.attr:  # `publish` alone is also what destinations do
            yield node.attr


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_clients_of_aws_are_held_in_two_packages_only() -> None:
    users = {path for path in CLIENT.rglob("*.py") if imports_of(path) & {"aiobotocore", "botocore", "boto3"}}
    assert users
    assert users <= set(with_clients())


def test_every_operation_of_the_code_is_in_a_policy_and_the_other_way_round() -> None:
    assert operations() == set(ACTIONS)
    assert set().union(*WORKER.values(), *OPERATOR.values()) == set(ACTIONS)


@pytest.mark.parametrize(("policy", "uses"), [("WorkerPolicy", WORKER), ("OperatorPolicy", OPERATOR)])
def test_a_policy_allows_what_is_called_and_nothing_else(policy: str, uses: dict[str, set[str]]) -> None:
    statements = Rendered().statements(policy)
    assert all(said["Effect"] == "Allow" for said in statements.values())
    allowed = {sid: as_set(said["Action"]) for sid, said in statements.items()}
    assert allowed == {sid: {ACTIONS[operation] for operation in found} for sid, found in uses.items()}


def test_rights_are_on_these_resources_only() -> None:
    rendered = Rendered(OutputPrefix="a/b")
    assert {sid: said["Resource"] for sid, said in rendered.statements("WorkerPolicy").items()} == {
        "TakeMessages": "Queue.Arn",
        "SetPoisonAside": "DeadLetterQueue.Arn",
        "ReadProducts": [f"arn:aws:s3:::{bucket}/*" for bucket in source_buckets()],
        "ListProductsAndMasks": [*(f"arn:aws:s3:::{bucket}" for bucket in source_buckets()), "Bucket.Arn"],
        "WriteMasks": "Bucket.Arn/a/b/*",
        "TellOfMasks": "FinishedTopic",
    }
    assert {sid: said["Resource"] for sid, said in rendered.statements("OperatorPolicy").items()} == {
        "FillTheQueueAndLookAtIt": "Queue.Arn",
        "LookAtDeadLettersAndSendThemBack": "DeadLetterQueue.Arn",
    }
    (scaler,) = rendered.statements("ScalerPolicy").values()
    assert (scaler["Action"], scaler["Resource"]) == ("sqs:GetQueueAttributes", "Queue.Arn")


def source_buckets() -> list[str]:
    """What workers read by themselves; CDSE's bucket wants CDSE's own keys."""
    return [
        place.removeprefix("s3://") for place in DEFAULT_PLACES if place.startswith("s3://") and "eodata" not in place
    ]


def test_no_policy_of_a_role_has_a_wildcard_for_actions_or_resources() -> None:
    for name, said in load()["Resources"].items():
        if said["Type"] != "AWS::IAM::ManagedPolicy":
            continue
        for statement in Rendered(OwnSourceBucket="own").statements(name).values():
            assert not any("*" in action for action in as_set(statement["Action"])), name
            assert not as_set(statement["Resource"]) & {"*", "arn:aws:s3:::*", "arn:aws:s3:::*/*"}, name


def as_set(said: Any) -> set[str]:
    return set(said) if isinstance(said, list) else {said}


@pytest.mark.parametrize("runs_on", RUNS_ON)
def test_the_role_trusts_one_kind_of_worker(runs_on: str) -> None:
    resources = Rendered(RunsOn=runs_on, Namespace="masks", ServiceAccount="w").resources
    assert ("WorkerRole" in resources) is (runs_on != "elsewhere")
    assert ("InstanceProfile" in resources) is (runs_on == "ec2")
    if runs_on == "elsewhere":
        return
    assert resources["WorkerRole"]["ManagedPolicyArns"] == ["WorkerPolicy"]
    document = resources["WorkerRole"]["AssumeRolePolicyDocument"]
    (statement,) = (json.loads(document) if isinstance(document, str) else document)["Statement"]
    issuer = "oidc.eks.eu-central-1.amazonaws.com/id/ABCDEF"
    expected = {
        "eks-irsa": (
            {"Federated": f"arn:aws:iam::123456789012:oidc-provider/{issuer}"},
            "sts:AssumeRoleWithWebIdentity",
            {
                "StringEquals": {
                    f"{issuer}:aud": "sts.amazonaws.com",
                    f"{issuer}:sub": ["system:serviceaccount:masks:w"],
                }
            },
        ),
        "eks-pod-identity": (
            {"Service": "pods.eks.amazonaws.com"},
            ["sts:AssumeRole", "sts:TagSession"],
            {"StringEquals": {"aws:SourceAccount": "123456789012"}},
        ),
        "ec2": ({"Service": "ec2.amazonaws.com"}, "sts:AssumeRole", None),
    }
    assert (statement["Principal"], statement["Action"], statement.get("Condition")) == expected[runs_on]


def test_keda_may_take_on_the_role_where_that_is_wanted() -> None:
    document = Rendered(KedaOperator="keda:keda-operator").resources["WorkerRole"]["AssumeRolePolicyDocument"]
    (statement,) = json.loads(document)["Statement"]
    assert statement["Condition"]["StringEquals"]["oidc.eks.eu-central-1.amazonaws.com/id/ABCDEF:sub"] == [
        "system:serviceaccount:kappamask:kappamask",
        "system:serviceaccount:keda:keda-operator",
    ]


def test_irsa_without_an_issuer_is_refused_before_anything_is_made() -> None:
    (rule,) = load()["Rules"].values()
    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "RunsOn"}, "eks-irsa"]}
    assert rule["Assertions"][0]["Assert"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "OidcProvider"}, ""]}]}


# ---------------------------------------------------------------- alarms, outputs


def test_alarms_watch_these_queues_and_tell_the_topic_that_is_given() -> None:
    topic = "arn:aws:sns:eu-central-1:123456789012:people"
    quiet, loud = Rendered().resources, Rendered(AlarmTopic=topic).resources
    watched = {
        name: (said["MetricName"], said["Dimensions"][0]["Value"], said["TreatMissingData"])
        for name, said in loud.items()
        if name.endswith("Alarm")
    }
    assert watched == {
        "DeadLetterAlarm": ("ApproximateNumberOfMessagesVisible", "DeadLetterQueue.QueueName", "notBreaching"),
        "OldestMessageAlarm": ("ApproximateAgeOfOldestMessage", "Queue.QueueName", "notBreaching"),
        "SilentFeedAlarm": ("NumberOfMessagesSent", "Queue.QueueName", "breaching"),
    }
    for name in watched:
        assert loud[name]["AlarmActions"] == [topic]
        assert "AlarmActions" not in quiet[name]


def test_the_stack_tells_a_command_that_is_understood() -> None:
    (words,) = commands_in(Rendered().outputs["WorkerCommand"])
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "worker"
    assert given == {
        "--queue": "Queue", "--dead-letter-queue": "DeadLetterQueue", "--output": "s3://Bucket/masks",
        "--emit": "FinishedTopic", "--triton": "grpc://TRITON:8001",
    }  # fmt: skip
    extras = [field.json_schema_extra for field in Settings.model_fields.values()]
    flags = {extra.get("flag") for extra in extras if isinstance(extra, dict)}
    assert set(given) <= flags | {"--output"}
