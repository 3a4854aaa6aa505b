"""The stack of deploy/aws/ingest.yaml, made by moto's CloudFormation over a socket."""

from __future__ import annotations

import json
import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest

from tests.unit.ingest_template import CLUSTER, PATH, Rendered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.s3_servers import MotoStore

REGION, L1C_REGION = "eu-central-1", "eu-west-1"
#: moto leaves None in lists where `AWS::NoValue` stands, so a bucket of our own is named.
PARAMETERS = {
    **CLUSTER,
    "OwnSourceBucket": "own-products",
    "MaxReceiveCount": "5",
    "OutputBucketName": "masks-of-tests",
}


@pytest.fixture
def client(moto_store: MotoStore, aws_environment: None) -> Iterator[Callable[..., Any]]:
    """Make botocore clients: ``client("sqs")``, ``client("sns", "eu-west-1")``."""
    session = botocore.session.Session()
    with ExitStack() as stack:

        def make(service: str, region: str = REGION) -> Any:
            made = session.create_client(service, region_name=region, endpoint_url=moto_store.endpoint)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def stack(client: Callable[..., Any]) -> dict[str, str]:
    """A stack of the test's own: its outputs, and its name. moto cannot delete one whose role has policies."""
    formation, name = client("cloudformation"), f"ingest-{secrets.token_hex(4)}"
    given = {**PARAMETERS, "OutputBucketName": f"{name}-masks"}
    parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]
    formation.create_stack(
        StackName=name, TemplateBody=PATH.read_text(), Parameters=parameters, Capabilities=["CAPABILITY_IAM"]
    )
    (made,) = formation.describe_stacks(StackName=name)["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE"
    return {"name": name, **{output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}}


def attributes(sqs: Any, url: str) -> dict[str, str]:
    found: dict[str, str] = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return found


def test_queues_are_as_the_template_says(client: Callable[..., Any], stack: dict[str, str]) -> None:
    sqs = client("sqs")
    queue, dead = attributes(sqs, stack["QueueUrl"]), attributes(sqs, stack["DeadLetterQueueUrl"])
    assert stack["QueueArn"] == queue["QueueArn"] == f"arn:aws:sqs:{REGION}:123456789012:{stack['name']}-products"
    assert json.loads(queue["RedrivePolicy"]) == {"deadLetterTargetArn": dead["QueueArn"], "maxReceiveCount": 5}
    assert (queue["VisibilityTimeout"], queue["ReceiveMessageWaitTimeSeconds"]) == ("120", "20")
    assert queue["MessageRetentionPeriod"] == dead["MessageRetentionPeriod"] == "1209600"


def test_what_fails_too_often_becomes_a_dead_letter(client: Callable[..., Any], stack: dict[str, str]) -> None:
    sqs, most = client("sqs"), int(PARAMETERS["MaxReceiveCount"])
    sqs.send_message(QueueUrl=stack["QueueUrl"], MessageBody="again and again")
    for _ in range(most):
        (message,) = sqs.receive_message(QueueUrl=stack["QueueUrl"], WaitTimeSeconds=1)["Messages"]
        sqs.change_message_visibility(
            QueueUrl=stack["QueueUrl"], ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )
    assert "Messages" not in sqs.receive_message(QueueUrl=stack["QueueUrl"], WaitTimeSeconds=0)
    (dead,) = sqs.receive_message(QueueUrl=stack["DeadLetterQueueUrl"], WaitTimeSeconds=1)["Messages"]
    assert dead["Body"] == "again and again"


def test_a_topic_of_another_region_reaches_the_queue(client: Callable[..., Any], stack: dict[str, str]) -> None:
    # As resources moto knows neither subscriptions nor queues' policies: the template's are given to the API.
    sns, sqs = client("sns", L1C_REGION), client("sqs")
    topic = sns.create_topic(Name="NewSentinel2Product")["TopicArn"]
    rendered = Rendered(SubscribeL2A="false", SubscribeL1C="true", L1CTopic=topic)
    wanted = rendered.resources["L1CSubscription"]
    assert wanted["Region"] == L1C_REGION
    policy = json.dumps(rendered.resources["QueuePolicy"]["PolicyDocument"]).replace("Queue.Arn", stack["QueueArn"])
    sqs.set_queue_attributes(QueueUrl=stack["QueueUrl"], Attributes={"Policy": policy})
    sns.subscribe(
        TopicArn=wanted["TopicArn"],
        Protocol=wanted["Protocol"],
        Endpoint=wanted["Endpoint"].replace("Queue.Arn", stack["QueueArn"]),
    )
    sns.publish(TopicArn=topic, Message='{"name": "S2A_…"}')
    (message,) = sqs.receive_message(QueueUrl=stack["QueueUrl"], WaitTimeSeconds=1)["Messages"]
    envelope = json.loads(message["Body"])
    assert (envelope["TopicArn"], json.loads(envelope["Message"])) == (topic, {"name": "S2A_…"})
    statements = json.loads(attributes(sqs, stack["QueueUrl"])["Policy"])["Statement"]
    assert [said["Condition"] for said in statements if said["Effect"] == "Allow"] == [
        {"ArnEquals": {"aws:SourceArn": [topic]}}
    ]


def test_of_earth_search_only_its_sentinel_2_items_reach_the_queue(
    client: Callable[..., Any], stack: dict[str, str]
) -> None:
    sns, sqs = client("sns", "us-west-2"), client("sqs")
    topic = sns.create_topic(Name="cirrus-es-prod-publish")["TopicArn"]
    wanted = Rendered(SubscribeEarthSearch="true", EarthSearchTopic=topic).resources["EarthSearchSubscription"]
    sns.subscribe(
        TopicArn=wanted["TopicArn"],
        Protocol=wanted["Protocol"],
        Endpoint=wanted["Endpoint"].replace("Queue.Arn", stack["QueueArn"]),
        Attributes={name: wanted[name] for name in ("FilterPolicy", "FilterPolicyScope")},
    )
    for collection in ("landsat-c2-l2", "sentinel-2-c1-l2a", "sentinel-2-l2a", "sentinel-1-grd"):
        said = {"collection": {"DataType": "String", "StringValue": collection}}
        sns.publish(TopicArn=topic, Message=json.dumps({"collection": collection}), MessageAttributes=said)
    found = sqs.receive_message(QueueUrl=stack["QueueUrl"], WaitTimeSeconds=1, MaxNumberOfMessages=10)["Messages"]
    assert [json.loads(json.loads(message["Body"])["Message"]) for message in found] == [
        {"collection": "sentinel-2-l2a"}
    ]


def test_the_bucket_is_private_and_encrypted(client: Callable[..., Any], stack: dict[str, str]) -> None:
    s3 = client("s3")
    bucket = f"{stack['name']}-masks"
    assert stack["OutputUrl"] == f"s3://{bucket}/masks"
    encryption = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]
    assert encryption["Rules"][0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


def test_the_role_has_the_workers_policy_and_trusts_its_service_account(
    client: Callable[..., Any], stack: dict[str, str]
) -> None:
    iam = client("iam")
    name = stack["WorkerRoleArn"].rpartition("/")[2]
    (statement,) = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]["Statement"]
    issuer = CLUSTER["OidcProvider"]
    assert statement["Condition"]["StringEquals"] == {
        f"{issuer}:aud": "sts.amazonaws.com",
        f"{issuer}:sub": ["system:serviceaccount:kappamask:kappamask"],
    }
    version = iam.get_policy(PolicyArn=stack["WorkerPolicyArn"])["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=stack["WorkerPolicyArn"], VersionId=version)["PolicyVersion"][
        "Document"
    ]
    resources = {said["Sid"]: said["Resource"] for said in document["Statement"]}
    assert resources["TakeMessages"] == stack["QueueArn"]
    assert resources["SetPoisonAside"] == f"arn:aws:sqs:{REGION}:123456789012:{stack['name']}-dead-letters"
    assert resources["WriteMasks"] == f"arn:aws:s3:::{stack['name']}-masks/masks/*"
    assert resources["TellOfMasks"] == stack["FinishedTopicArn"]
