"""Messages of every form, written here after the schemas that their senders publish; ids, times and keys are invented.

What each form was written after:
- S3 event: "Event message structure", https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
  (keys are URL-encoded there), and its test event, "s3:TestEvent" on the same page;
- EventBridge: "EventBridge event message structure", https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html;
- SNS to SQS and HTTP: "Parsing Amazon SNS message formats",
  https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html; to Lambda: "Using Lambda with Amazon SNS",
  https://docs.aws.amazon.com/lambda/latest/dg/with-sns.html;
- SentinelS2L2A: the same fields as NewSentinel2Product, as stac-sentinel's Lambda reads both,
  https://github.com/stac-utils/stac-sentinel (a captured NewSentinel2Product is in the shared data);
- STAC Items on the topic of Earth Search: "SNS Notifications of Items", https://github.com/Element84/earth-search, the
  Item itself is in SNS's Message; the Items are those of `stac_items`;
- Copernicus Data Space: https://documentation.dataspace.copernicus.eu/APIs/Subscriptions.html (a captured one is in the
  shared data).
"""

from __future__ import annotations

import json
from typing import Any

L2A = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"
L1C = "S2A_MSIL1C_20221005T115411_N0400_R023_T29UNU_20221005T135210"


def own(**fields: Any) -> dict[str, Any]:
    """A message of the project's own."""
    return {"schema": "kappamask-stream/product", "version": "1.0", "product": L2A, **fields}


def s3_record(key: str, *, event: str = "ObjectCreated:Put", bucket: str = "archive") -> dict[str, Any]:
    """One record of an event notification; `key` as it is written there, URL-encoded."""
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-central-1",
        "eventTime": "2026-07-01T10:30:00.000Z",
        "eventName": event,
        "userIdentity": {"principalId": "AWS:AIDAEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "192.0.2.1"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "products",
            "bucket": {
                "name": bucket, "ownerIdentity": {"principalId": "A3NL1KOZZKExample"}, "arn": f"arn:aws:s3:::{bucket}",
            },
            "object": {"key": key, "size": 1024, "eTag": "d41d8cd98f00b204e9800998ecf8427e", "sequencer": "0055AED6"},
        },
    }  # fmt: skip


def s3_event(*records: dict[str, Any]) -> dict[str, Any]:
    return {"Records": list(records)}


def s3_test_event() -> dict[str, Any]:
    return {
        "Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-07-01T10:30:00.000Z", "Bucket": "archive",
        "RequestId": "5582815E1AEA5ADF", "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3e",
    }  # fmt: skip


def bridge_event(key: str, *, kind: str = "Object Created") -> dict[str, Any]:
    """S3's event through EventBridge; `key` as it is."""
    return {
        "version": "0", "id": "17793124-05d4-b198-2fde-7ededc63b103", "detail-type": kind, "source": "aws.s3",
        "account": "111122223333", "time": "2026-07-01T10:30:00Z", "region": "eu-central-1",
        "resources": ["arn:aws:s3:::archive"],
        "detail": {
            "version": "0", "bucket": {"name": "archive"},
            "object": {"key": key, "size": 5, "etag": "b1946ac92492d2347c6235b4d2611184", "sequencer": "617f08299329d189"},
            "request-id": "N4N7GDK58NMKJ12R", "requester": "123456789012", "reason": "PutObject",
        },
    }  # fmt: skip


def topic(name: str = L2A, **fields: Any) -> dict[str, Any]:
    """A message of SentinelS2L2A or NewSentinel2Product."""
    return {
        "name": name,
        "id": "00000000-0000-4000-8000-00000000000a",
        "path": f"products/2022/10/5/{name}",
        "timestamp": "2022-10-05T11:54:11.000Z",
        "datatakeIdentifier": "GS2A_20221005T115411_038058_N04.00",
        "sciHubIngestion": "2022-10-05T20:00:01.000Z",
        "s3Ingestion": "2022-10-05T20:00:02.000Z",
        "tiles": [
            {
                "path": "tiles/29/U/NU/2022/10/5/0",
                "timestamp": "2022-10-05T11:56:00.000Z",
                "utmZone": 29,
                "latitudeBand": "U",
                "gridSquare": "NU",
                "datastrip": {"id": "S2A_OPER_MSI_L2A_DS", "path": f"products/2022/10/5/{name}/datastrip/0"},
            }
        ],
        "datastrips": [{"id": "S2A_OPER_MSI_L2A_DS", "path": f"products/2022/10/5/{name}/datastrip/0"}],
        **fields,
    }


def data_space(event: str = "created", name: str = L1C, **value: Any) -> dict[str, Any]:
    """A push notification of the Copernicus Data Space; `value` replaces fields of the product."""
    return {
        "@odata.context": "$metadata#Notification/$entity",
        "SubscriptionEvent": event,
        "ProductId": "00000000-0000-4000-8000-00000000000b",
        "ProductName": f"{name}.SAFE",
        "SubscriptionId": "00000000-0000-4000-8000-00000000000c",
        "NotificationDate": "2022-10-05T21:00:00.000Z",
        "AckId": "invented-acknowledgement",
        "value": {
            "Id": "00000000-0000-4000-8000-00000000000b",
            "Name": f"{name}.SAFE",
            "S3Path": f"/eodata/Sentinel-2/MSI/L1C/2022/10/05/{name}.SAFE",
            "GeoFootprint": {"type": "Polygon", "coordinates": [square(-9.0, 52.5)]},
            "Attributes": [
                {"@odata.type": "#OData.CSC.StringAttribute", "Name": "tileId", "Value": "29UNU"},
                {"@odata.type": "#OData.CSC.DoubleAttribute", "Name": "cloudCover", "Value": 41.5},
            ],
            **value,
        },
    }


def sns(inner: Any, **fields: Any) -> dict[str, Any]:
    """An envelope of SNS, as SQS and HTTP get it."""
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
        "Subject": "a subject",
        "Message": inner if isinstance(inner, str) else json.dumps(inner),
        "Timestamp": "2026-07-01T10:30:00.000Z",
        "SignatureVersion": "1",
        "Signature": "EXAMPLEw6JRN",
        "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService.pem",
        "UnsubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=Unsubscribe&SubscriptionArn=arn:aws:sns:x",
        **fields,
    }


def to_lambda(*inner: Any) -> dict[str, Any]:
    """The same as Lambda gets it, and who passes that on."""
    return {
        "Records": [
            {"EventVersion": "1.0", "EventSource": "aws:sns", "EventSubscriptionArn": "arn:aws:sns:x", "Sns": sns(one)}
            for one in inner
        ]
    }


def subscription_confirmation() -> dict[str, Any]:
    return {
        "Type": "SubscriptionConfirmation",
        "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
        "Token": "2336412f37fb6",
        "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
        "Message": "You have chosen to subscribe to the topic. To confirm, visit the SubscribeURL.",
        "SubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37fb6",
        "Timestamp": "2026-07-01T10:30:00.000Z",
    }


def square(west: float, south: float, side: float = 1.0) -> list[list[float]]:
    """A ring of GeoJSON."""
    east, north = west + side, south + side
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]
