"""What the soak's workers live in: queue, stores, products, messages. All over sockets, all made for the run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config

from kappamask_stream.synth import write_product

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "bench-output" / "soak"
PRODUCTS, MASKS = "products", "masks"
#: What the stores' environment and the workers sign with; nobody checks.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "KEYOFSOAK",
    "AWS_SECRET_ACCESS_KEY": "SECRETOFSOAK",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_RECEIVES_BEFORE_DEAD = 50


@dataclass(frozen=True, kw_only=True)
class World:
    """Where everything is.

    Attributes
    ----------
    endpoint : of S3 and SQS.
    queue, dead_letters, finished : URLs of the queues: of work, of what can never be done, of emitted Items.
    products : name -> the product's directory on this machine; also in the bucket `PRODUCTS`.
    poison : bodies of messages that can never be done.
    filtered : bodies of messages that the workers' filters turn away.
    sent : messages of products, repetitions counted.
    """

    endpoint: str
    queue: str
    dead_letters: str
    finished: str
    products: dict[str, Path] = field(repr=False)
    poison: list[str] = field(repr=False)
    filtered: list[str] = field(repr=False)
    sent: int

    def client(self, service: str) -> Any:
        """Return botocore's own client."""
        return client(self.endpoint, service)


def client(endpoint: str, service: str) -> Any:
    """Return botocore's own client, with patience for a server that shares two cores with all others."""
    session = botocore.session.get_session()
    session.set_credentials(CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
    patience = Config(read_timeout=120, retries={"total_max_attempts": 8, "mode": "standard"})
    return session.create_client(service, region_name="us-east-1", endpoint_url=endpoint, config=patience)


@contextmanager
def stores() -> Iterator[str]:
    """Run S3 and SQS and yield their endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    python = Path(os.environ.get("KAPPAMASK_STORES_ENV", ROOT / ".venv-stores")) / "bin" / "python"
    command = [str(python), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _answers(endpoint):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the store does not start: `make stores-env` makes its environment")
            time.sleep(0.1)
        yield endpoint
    finally:
        process.kill()
        process.wait()


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True


def build(endpoint: str, count: int, rng: random.Random) -> World:
    """Make products and queues, and send all messages: each product once, some twice, poison and others' among them."""
    products = make_products(count)
    s3, sqs = client(endpoint, "s3"), client(endpoint, "sqs")
    for bucket in (PRODUCTS, MASKS):
        s3.create_bucket(Bucket=bucket)
    for name, directory in products.items():
        upload(s3, name, directory)
    poison = _poison(s3, list(products), rng)
    filtered = [_own(name.replace("MSIL2A", "MSIL1C")) for name in rng.sample(list(products), max(1, count // 30))]
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": str(_RECEIVES_BEFORE_DEAD)})
    queue = sqs.create_queue(QueueName="work", Attributes={"RedrivePolicy": policy})["QueueUrl"]
    again = rng.sample(list(products), max(1, count // 10))
    bodies = [_own(name) for name in [*products, *again]]
    mixed = [*bodies, *poison, *filtered]
    rng.shuffle(mixed)
    send(sqs, queue, mixed)
    return World(
        endpoint=endpoint,
        queue=queue,
        dead_letters=dead,
        finished=sqs.create_queue(QueueName="finished")["QueueUrl"],
        products=products,
        poison=poison,
        filtered=filtered,
        sent=len(bodies),
    )


def make_products(count: int) -> dict[str, Path]:
    """Make small products, one tile each; those of an earlier run are used again."""
    folder, made = WORK / "products", {}
    for seed in range(count):
        known = folder / str(seed)
        there = next(known.glob("*.SAFE"), None) if known.is_dir() else None
        product = there or write_product(known, size=240, seed=seed).product
        made[product.stem] = product
    if len(made) != count:
        raise SystemExit(f"{count} seeds gave {len(made)} names of products: they must be different")
    return made


def upload(s3: Any, name: str, directory: Path) -> None:
    """Put a product into the bucket as it lies in its directory."""
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        s3.put_object(
            Bucket=PRODUCTS, Key=f"{name}.SAFE/{file.relative_to(directory).as_posix()}", Body=file.read_bytes()
        )


def _own(name: str) -> str:
    document = {
        "schema": "kappamask-stream/product",
        "version": "1.0",
        "product": name,
        "location": f"s3://{PRODUCTS}/{name}.SAFE/",
    }
    return json.dumps(document)


def _poison(s3: Any, names: Sequence[str], rng: random.Random) -> list[str]:
    """Make messages that can never be done: no message at all, a product that is not there, one that is damaged."""
    sample = rng.choice(names)
    damaged = sample[:-1] + "X"  # another discriminator, so another product
    listed = s3.list_objects_v2(Bucket=PRODUCTS, Prefix=f"{sample}.SAFE/")["Contents"]
    for key in (entry["Key"] for entry in listed):
        body = s3.get_object(Bucket=PRODUCTS, Key=key)["Body"].read()
        broken = body[: len(body) // 2] if key.endswith(".jp2") else body
        s3.put_object(
            Bucket=PRODUCTS,
            Key=key.replace(sample, damaged),
            Body=broken.replace(sample.encode(), damaged.encode()) if key.endswith((".xml", ".safe")) else broken,
        )
    absent = sample[:-1] + "Z"
    return ["no message of any kind", "{}", json.dumps({"schema": "kappamask-stream/product", "version": "9.0"}),
            _own(absent), _own(damaged)]  # fmt: skip


def send(sqs: Any, queue: str, bodies: Sequence[str]) -> None:
    """Send messages by ten."""
    for first in range(0, len(bodies), 10):
        entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[first : first + 10])]
        answer = sqs.send_message_batch(QueueUrl=queue, Entries=entries)
        if answer.get("Failed"):
            raise SystemExit(f"the queue refused messages: {answer['Failed']}")


def counts(sqs: Any, queue: str) -> tuple[int, int]:
    """Return messages that wait, and that are in work or come back later."""
    names = [
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
    ]
    found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    return int(found[names[0]]), int(found[names[1]]) + int(found[names[2]])


def drain(sqs: Any, queue: str) -> list[dict[str, Any]]:
    """Take all messages out of a queue that nobody else reads."""
    taken: list[dict[str, Any]] = []
    while found := sqs.receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=600, MessageAttributeNames=["All"]
    ).get("Messages"):
        taken += found
    return taken
