"""What must hold when all is done: every product exactly one valid output, no message lost, only poison is dead."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import rasterio
from world import MASKS, World, counts, drain

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHA256_MULTIHASH = "1220"


def listed(s3: Any, bucket: str) -> dict[str, int]:
    """Return all keys of a bucket with their sizes."""
    found: dict[str, int] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        found |= {entry["Key"]: entry["Size"] for entry in page.get("Contents", [])}
    return found


def faults_of_outputs(world: World) -> list[str]:
    """Compare the bucket with what was asked for; returns what is wrong, in words."""
    s3 = world.client("s3")
    keys = listed(s3, MASKS)
    faults: list[str] = []
    per_product: dict[str, Counter[str]] = {name: Counter() for name in world.products}
    for key in keys:
        folder, _, file = key.removeprefix("out/").rpartition("/")
        product = folder.rpartition("/")[2]
        if product in per_product:
            ending = next(e for e in ("_quicklook.png", ".tif", ".json", file) if file.endswith(e))
            per_product[product][ending] += 1
        elif "S2" in product:
            faults.append(f"{key}: nobody asked for it")
    for name, found in per_product.items():
        if dict(found) != {"_quicklook.png": 1, ".tif": 1, ".json": 1}:
            faults.append(f"{name}: its files are {dict(found)}")
    for key in (key for key in keys if key.endswith(".json") and key.split("/")[-2] in per_product):
        faults += _faults_of_item(s3, key, keys)
    if uploads := s3.list_multipart_uploads(Bucket=MASKS).get("Uploads"):
        faults.append(f"{len(uploads)} uploads were begun and never ended")
    return faults


def _faults_of_item(s3: Any, key: str, keys: Iterable[str]) -> list[str]:
    """Check that an Item's files are there, as large and of the content that it says, and that the mask is whole."""
    item = json.loads(s3.get_object(Bucket=MASKS, Key=key)["Body"].read())
    folder, faults = key.rpartition("/")[0], []
    for name, asset in item["assets"].items():
        at = f"{folder}/{asset['href'].removeprefix('./')}"
        if at not in keys:
            faults.append(f"{key}: its {name}, {at}, is not there")
            continue
        body = s3.get_object(Bucket=MASKS, Key=at)["Body"].read()
        if asset["file:checksum"] != _SHA256_MULTIHASH + hashlib.sha256(body).hexdigest():
            faults.append(f"{key}: its {name} has another content than it says")
        if name == "mask":
            with rasterio.open(io.BytesIO(body)) as mask:
                if mask.read(1).shape != (mask.height, mask.width) or mask.tags().get("FINGERPRINT") is None:
                    faults.append(f"{at}: is no whole mask")
    return faults


def faults_of_queues(world: World) -> list[str]:
    """Check that nothing waits any more, that the dead are the poison, and that each mask was told of."""
    sqs, faults = world.client("sqs"), []
    if any(left := counts(sqs, world.queue)):
        faults.append(f"the queue still holds {left[0]} messages and {left[1]} in work")
    dead = drain(sqs, world.dead_letters)
    if Counter(message["Body"] for message in dead) != Counter(world.poison):
        faults.append(f"{len(dead)} dead letters, {len(world.poison)} poison messages were sent, and they differ")
    faults += [f"a dead letter gives no reason: {m['Body'][:60]}" for m in dead if not m.get("MessageAttributes")]
    told = Counter(_product_of(message["Body"]) for message in drain(sqs, world.finished))
    if missing := sorted(set(world.products) - set(told)):
        faults.append(f"{len(missing)} masks were never told of, e.g. {missing[0]}")
    if strangers := sorted(set(told) - set(world.products)):
        faults.append(f"told of {strangers[0]}, which nobody asked for")
    return faults


def _product_of(body: str) -> str:
    return str(json.loads(body)["properties"]["s2:product_uri"]).removesuffix(".SAFE")


def differing(world: World, reference: dict[str, str]) -> list[str]:
    """Compare masks with those that `run` makes of the same products; `reference`: product -> SHA-256 of its mask."""
    s3 = world.client("s3")
    keys = {key.split("/")[-2]: key for key in listed(s3, MASKS) if key.endswith(".tif")}
    faults = []
    for name, expected in reference.items():
        body = s3.get_object(Bucket=MASKS, Key=keys[name])["Body"].read() if name in keys else b""
        if hashlib.sha256(body).hexdigest() != expected:
            faults.append(f"{name}: the worker's mask is not the one that `run` makes")
    return faults
