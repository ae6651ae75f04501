"""Where a fleet keeps its plans: small objects of JSON in S3, of one execution all in one place."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loader.aws.settings import settings
from loader.core.errors import SetupError
from loader.core.spec.model import LoadSpec
from loader.sharding.proof import ShardPlan


@dataclass(frozen=True, slots=True)
class StoredJson:
    """An object of JSON in S3."""

    bucket: str
    key: str

    def read(self) -> Any:
        """None where there is no such object. Raises what else S3 raises: nothing can go on without it."""
        client = settings().s3
        try:
            return json.loads(client.get_object(Bucket=self.bucket, Key=self.key)["Body"].read())
        except client.exceptions.NoSuchKey:
            return None

    def write(self, content: Any) -> None:
        body = json.dumps(content).encode()
        settings().s3.put_object(Bucket=self.bucket, Key=self.key, Body=body, ContentType="application/json")

    def to_dict(self) -> dict[str, str]:
        return {"bucket": self.bucket, "key": self.key}

    @classmethod
    def of(cls, told: Mapping[str, str]) -> StoredJson:
        return cls(told["bucket"], told["key"])

    @classmethod
    def of_plan(cls, execution: str) -> StoredJson:
        """Where the plan of an execution is. Raises SetupError where the environment does not say."""
        bucket, separator, prefix = os.environ.get("LOADER_PLANS", "").removeprefix("s3://").partition("/")
        if not (bucket and separator):
            raise SetupError("LOADER_PLANS has to be s3://bucket/prefix/, where plans are kept")
        return cls(bucket, f"{prefix}{execution}/plan.json")

    def beside(self, name: str) -> StoredJson:
        return StoredJson(self.bucket, f"{self.key.rpartition('/')[0]}/{name}")


AGAIN = "again.json"
"""Beside a plan: what the next one has to be told."""


def told_again(place: StoredJson, spec: LoadSpec) -> dict[str, Any] | None:
    """What the plan at ``place`` left for the next one by the same spec, if anything: see `shards.replanned`."""
    told = place.beside(AGAIN).read() or {}
    return told.get("again") if told.get("fingerprint") == spec.fingerprint() else None


def is_told_again(place: StoredJson, plan: ShardPlan) -> bool:
    """Whether the plan at ``place`` itself was found to have to begin again."""
    again = told_again(place, LoadSpec.from_stored(plan.spec, origin="shard plan"))
    return again is not None and bool(again.get("after") == plan.attempt)


def tell_again(place: StoredJson, plan: ShardPlan, again: Mapping[str, Any]) -> int:
    """Leave that for the next plan; gives how many there were by now."""
    noted, fingerprint = place.beside(AGAIN), LoadSpec.from_stored(plan.spec, origin="shard plan").fingerprint()
    before = noted.read() or {}
    plans = 1 + (before.get("plans", 0) if before.get("fingerprint") == fingerprint else 0)
    noted.write({"plans": plans, "fingerprint": fingerprint, "again": dict(again)})
    return plans
