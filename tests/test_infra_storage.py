"""The bucket, and what becomes of an upload: encrypted, kept, told to the queue."""

from __future__ import annotations

from typing import Any

import pytest
from support.iam import is_allowed, is_denied
from support.synthesis import ACCOUNT, Synthesis, Template

from loader.sources.s3 import split_uri

SECURE = {"aws:SecureTransport": "true", "s3:TlsVersion": "1.3"}


def bucket(template: Template) -> dict[str, Any]:
    return template.one("S3::Bucket", "StorageBucket")


def policy(template: Template, starting: str = "StorageBucketPolicy") -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = template.one("S3::BucketPolicy", starting)["PolicyDocument"]["Statement"]
    return statements


def test_uploads_are_encrypted_with_a_key_of_our_own(template: Template) -> None:
    """A customer managed key, rotated each year, which outlives the stack as the bucket does."""
    (rule,) = bucket(template)["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["BucketKeyEnabled"] is True
    assert rule["ServerSideEncryptionByDefault"] == {
        "SSEAlgorithm": "aws:kms",
        "KMSMasterKeyID": template.arn("KMS::Key", "StorageKey"),
    }


def test_every_key_is_rotated(template: Template) -> None:
    keys = template.all("KMS::Key")
    assert len(keys) == 3
    assert all(key["EnableKeyRotation"] is True for key in keys)


def test_versions_are_kept(template: Template) -> None:
    """A load is pinned to one; those that were overwritten go after a while, and so do uploads that never ended."""
    assert bucket(template)["VersioningConfiguration"] == {"Status": "Enabled"}
    unfinished, _plans, old = bucket(template)["LifecycleConfiguration"]["Rules"]
    assert unfinished["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert old["NoncurrentVersionExpiration"]["NoncurrentDays"] >= 30


def test_no_rule_deletes_a_file_that_is_current(template: Template) -> None:
    """What was dropped stays until somebody takes it away. The fleet's plans, which the loader made, do not."""
    rules = bucket(template)["LifecycleConfiguration"]["Rules"]
    expiring = [rule for rule in rules if "ExpirationInDays" in rule or "ExpirationDate" in rule]
    assert [rule["Prefix"] for rule in expiring] == ["fleet/"]


@pytest.mark.parametrize("which", ["StorageBucket", "StorageAccessLogs"])
def test_nothing_is_public(template: Template, which: str) -> None:
    """Neither by ACL, of which there are none, nor by policy."""
    properties = template.one("S3::Bucket", which)
    assert all(properties["PublicAccessBlockConfiguration"].values())
    assert len(properties["PublicAccessBlockConfiguration"]) == 4
    assert properties["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]


def test_accesses_are_logged(template: Template) -> None:
    """Into a bucket of its own."""
    logging = bucket(template)["LoggingConfiguration"]
    assert logging["DestinationBucketName"] == template.ref("S3::Bucket", "StorageAccessLogs")


@pytest.mark.parametrize("which", ["StorageBucket", "StorageAccessLogs"])
@pytest.mark.parametrize("insecure", [{"aws:SecureTransport": "false"}, {"s3:TlsVersion": "1.1"}])
def test_buckets_speak_tls_only(template: Template, which: str, insecure: dict[str, str]) -> None:
    """Of version 1.2 or newer, for every action, of the bucket and its objects."""
    arn = template.arn("S3::Bucket", which)
    for resource in (arn, f"{arn}/incoming/a.csv"):
        for action in ("s3:GetObject", "s3:PutObject", "s3:ListBucket"):
            assert is_denied(policy(template, f"{which}Policy"), action, resource, SECURE | insecure)
            assert not is_denied(policy(template, f"{which}Policy"), action, resource, SECURE)


def test_an_upload_cannot_be_encrypted_otherwise(template: Template) -> None:
    """One that says nothing is encrypted by the bucket; one that names our key is welcome."""
    target = template.arn("S3::Bucket", "StorageBucket") + "/incoming/a.csv"
    algorithm, key = "s3:x-amz-server-side-encryption", "s3:x-amz-server-side-encryption-aws-kms-key-id"
    for headers, refused in (
        ({}, False),
        ({algorithm: "aws:kms"}, False),
        ({algorithm: "aws:kms", key: template.arn("KMS::Key", "StorageKey")}, False),
        ({algorithm: "AES256"}, True),
        ({algorithm: "aws:kms", key: "arn:aws:kms:eu-central-1:111122223333:key/another"}, True),
    ):
        assert is_denied(policy(template), "s3:PutObject", target, SECURE | headers) is refused


def test_uploads_below_the_prefix_are_told_to_the_queue(template: Template) -> None:
    """And nothing else is: not the specs, nor deletions."""
    assert bucket(template)["NotificationConfiguration"] == {
        "QueueConfigurations": [
            {
                "Event": "s3:ObjectCreated:*",
                "Filter": {"S3Key": {"Rules": [{"Name": "prefix", "Value": "incoming/"}]}},
                "Queue": template.arn("SQS::Queue", "IntakeQueue"),
            }
        ]
    }


def test_the_queue_is_open_before_the_bucket_tells_it(template: Template) -> None:
    """S3 sends a test message when the notification is set up, and fails the deployment where it is refused."""
    dependencies = template.resources[template.id("S3::Bucket", "StorageBucket")]["DependsOn"]
    assert template.id("SQS::QueuePolicy", "IntakeQueuePolicy") in dependencies


def test_specs_are_not_below_the_prefix_that_is_told(template: Template) -> None:
    """A spec that is changed must not be loaded."""
    environment = template.one("Lambda::Function", "LoadFunction")["Environment"]["Variables"]
    name, prefix = split_uri(environment["LOADER_SPECS"])
    assert name == template.ref("S3::Bucket", "StorageBucket")
    assert prefix == "specs/"


def test_partners_may_drop_files_and_nothing_else(synthesis: Synthesis) -> None:
    """Those whom the parameter ``uploaders`` names, of another account as well."""
    template = synthesis.templates["options"]
    arn, key = template.arn("S3::Bucket", "StorageBucket"), template.one("KMS::Key", "StorageKey")
    partner = "arn:aws:iam::999988887777:role/partner"
    statements = [each for each in policy(template) if each["Principal"] in ({"AWS": partner}, {"AWS": "*"})]
    assert is_allowed(statements, "s3:PutObject", f"{arn}/incoming/a.csv", SECURE)
    for action, resource in (
        ("s3:PutObject", f"{arn}/specs/a.toml"),
        ("s3:GetObject", f"{arn}/incoming/a.csv"),
        ("s3:DeleteObject", f"{arn}/incoming/a.csv"),
        ("s3:ListBucket", arn),
    ):
        assert not is_allowed(statements, action, resource, SECURE)
    of_key = [each for each in key["KeyPolicy"]["Statement"] if each["Principal"] == {"AWS": partner}]
    assert is_allowed(of_key, "kms:GenerateDataKey", "*", {"kms:ViaService": "s3.eu-central-1.amazonaws.com"})
    assert not is_allowed(of_key, "kms:GenerateDataKey", "*", {})


def test_without_partners_the_policy_allows_nobody_anything(synthesis: Synthesis) -> None:
    """Only roles of this account, by their own policies, get at the bucket."""
    for size in ("dev", "prod"):
        assert {each["Effect"] for each in policy(synthesis.templates[size])} == {"Deny"}


def test_names_are_those_of_the_account_and_region(template: Template) -> None:
    """A bucket's name is the world's: so it has both in it."""
    assert bucket(template)["BucketName"].endswith(f"-incoming-{ACCOUNT}-eu-central-1")
