"""Make what the worker of compose.yaml finds: the buckets, the queue of products and its dead-letter queue.

Run again it changes nothing.
"""

from __future__ import annotations

import json
import os
import sys

import boto3
from botocore.exceptions import ClientError

BUCKETS = ("products", "masks")
QUEUE, DEAD_LETTER_QUEUE = "products", "products-dead"
#: A message that kills its worker goes to the dead-letter queue by itself after so many tries (docs/queue.md).
MOST_RECEIVES = 10


def main() -> None:
    """Make all that is not there."""
    region = os.environ["AWS_REGION"]
    store = boto3.client("s3", endpoint_url=os.environ["STORE_ENDPOINT"], region_name=region)
    for bucket in BUCKETS:
        try:
            store.create_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
    queues = boto3.client("sqs", endpoint_url=os.environ["QUEUE_ENDPOINT"], region_name=region)
    dead = queues.create_queue(QueueName=DEAD_LETTER_QUEUE, Attributes={"MessageRetentionPeriod": "1209600"})
    arn = queues.get_queue_attributes(QueueUrl=dead["QueueUrl"], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MOST_RECEIVES})
    made = queues.create_queue(
        QueueName=QUEUE, Attributes={"RedrivePolicy": policy, "MessageRetentionPeriod": "1209600"}
    )
    sys.stdout.write(f"queue {made['QueueUrl']}, buckets {', '.join(BUCKETS)}\n")


if __name__ == "__main__":
    main()
