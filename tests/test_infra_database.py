"""The database: encrypted, isolated, kept; the secrets to log in, and who is behind them."""

from __future__ import annotations

import json
from typing import Any

from support.synthesis import Synthesis, Template


def instance(template: Template) -> dict[str, Any]:
    return template.one("RDS::DBInstance")


def test_storage_is_encrypted_with_a_key_of_our_own(template: Template) -> None:
    """So are backups and snapshots, and what Performance Insights keeps."""
    key = template.arn("KMS::Key", "DatabaseKey")
    assert instance(template)["StorageEncrypted"] is True
    assert instance(template)["KmsKeyId"] == key
    assert instance(template)["PerformanceInsightsKMSKeyId"] == key


def test_the_server_is_not_public(template: Template) -> None:
    """And not on the port that scanners try first."""
    assert instance(template)["PubliclyAccessible"] is False
    assert instance(template)["Port"] == "15432"


def test_the_server_takes_tls_only(template: Template) -> None:
    """1.2 or newer; and both functions check whose certificate it shows."""
    parameters = template.one("RDS::DBParameterGroup")["Parameters"]
    assert parameters["rds.force_ssl"] == "1"
    assert parameters["ssl_min_protocol_version"] == "TLSv1.2"
    for name in ("LoadFunction", "AdministrationFunction"):
        environment = template.one("Lambda::Function", name)["Environment"]["Variables"]
        assert environment["PGSSLMODE"] == "verify-full"


def test_the_version_is_pinned(template: Template) -> None:
    """A minor one, and RDS does not change it by itself: an upgrade is a change of this repository."""
    assert instance(template)["EngineVersion"].count(".") == 1
    assert instance(template)["AutoMinorVersionUpgrade"] is False
    assert instance(template)["AllowMajorVersionUpgrade"] is False


def test_prod_survives_a_zone_and_a_slip_of_the_hand(synthesis: Synthesis) -> None:
    """A standby in the other zone, protection from deletion, a month of backups; dev can be torn down at once."""
    for size, protected, days in (("dev", False, 7), ("prod", True, 30)):
        found = instance(synthesis.templates[size])
        assert found["MultiAZ"] is protected
        assert found["DeletionProtection"] is protected
        assert found["BackupRetentionPeriod"] == days


def test_data_outlive_the_stack(template: Template) -> None:
    """The database leaves a snapshot; buckets, and the keys to both, stay."""
    policies = {
        name: (each.get("DeletionPolicy"), each.get("UpdateReplacePolicy")) for name, each in template.resources.items()
    }
    assert policies[template.id("RDS::DBInstance")] == ("Snapshot", "Snapshot")
    kept = [
        *template.named("S3::Bucket"),
        *template.named("KMS::Key", "Storage"),
        *template.named("KMS::Key", "Database"),
    ]
    assert len(kept) == 4
    assert {policies[name] for name in kept} == {("RetainExceptOnCreate", "Retain")}
    assert instance(template)["DeleteAutomatedBackups"] is False


def test_storage_grows_by_itself(template: Template) -> None:
    assert instance(template)["MaxAllocatedStorage"] >= 4 * int(instance(template)["AllocatedStorage"])
    assert instance(template)["StorageType"] == "gp3"


# --- secrets


def test_the_masters_password_is_made_and_rotated_by_rds(template: Template) -> None:
    """It is in no template."""
    assert instance(template)["ManageMasterUserPassword"] is True
    assert "MasterUserPassword" not in instance(template)


def test_the_loader_has_a_secret_of_its_own(template: Template) -> None:
    """All that it takes to log in; the password is Secrets Manager's to make, and in no template."""
    secret = template.one("SecretsManager::Secret")
    content = json.loads(secret["GenerateSecretString"]["SecretStringTemplate"])
    assert content.keys() == {"engine", "host", "port", "dbname", "username"}
    assert content["username"] == "loader" != instance(template)["MasterUsername"]
    assert secret["GenerateSecretString"]["GenerateStringKey"] == "password"
    assert secret["GenerateSecretString"]["PasswordLength"] >= 32
    assert secret["KmsKeyId"] == template.arn("KMS::Key", "DatabaseKey")


def test_the_loader_gets_its_own_secret_and_not_the_masters(template: Template) -> None:
    environment = template.one("Lambda::Function", "LoadFunction")["Environment"]["Variables"]
    assert environment["LOADER_SECRET_ID"] == template.arn("SecretsManager::Secret", "DatabaseSecret")
    assert "master" not in json.dumps(environment).lower()


def test_the_loaders_password_is_rotated(template: Template) -> None:
    """By the administrator, whom Secrets Manager may call for this secret alone."""
    schedule = template.one("SecretsManager::RotationSchedule")
    administrator = template.arn("Lambda::Function", "AdministrationFunction")
    assert schedule["SecretId"] == template.arn("SecretsManager::Secret", "DatabaseSecret")
    assert schedule["RotationLambdaARN"] == administrator
    assert schedule["RotationRules"] == {"AutomaticallyAfterDays": 30}
    permission = template.one("Lambda::Permission")
    assert permission["FunctionName"] == administrator
    assert permission["Principal"] == "secretsmanager.amazonaws.com"
    assert permission["SourceArn"] == schedule["SecretId"]


# --- the database user


def test_the_user_is_there_before_the_first_file_comes(template: Template) -> None:
    """The mapping, which feeds the function, waits for it."""
    user = template.id("Custom::DatabaseUser")
    assert user in template.resources[template.id("Lambda::EventSourceMapping")]["DependsOn"]
    assert user in template.resources[template.id("SecretsManager::RotationSchedule")]["DependsOn"]


def test_the_user_is_made_when_the_way_to_the_database_is_open(template: Template) -> None:
    """Rules, endpoints and permissions are nothing that the function names, so CloudFormation has to be told."""
    waits_for = set(template.resources[template.id("Custom::DatabaseUser")]["DependsOn"])
    assert set(template.named("EC2::SecurityGroupEgress")) <= waits_for
    assert set(template.named("EC2::SecurityGroupIngress")) <= waits_for
    assert set(template.named("EC2::VPCEndpoint")) <= waits_for
    assert template.id("IAM::Policy", "AdministrationRole") in waits_for


def test_the_user_is_made_by_the_loaders_own_image(template: Template) -> None:
    function = template.one("Lambda::Function", "AdministrationFunction")
    assert function["ImageConfig"] == {"Command": ["loader.aws.database_user.handler"]}
    assert function["Code"] == template.one("Lambda::Function", "LoadFunction")["Code"]
    variables = function["Environment"]["Variables"]
    assert variables["LOADER_MASTER_SECRET_ID"].endswith(f"secret:master-{template.id('RDS::DBInstance')}")
    assert variables["PGHOST"] == f"{template.id('RDS::DBInstance')}.Endpoint.Address"


def test_schemas_are_a_parameter(synthesis: Synthesis) -> None:
    """In which the loader may make tables."""
    for name, schemas in (("dev", ["public"]), ("prod", ["public"]), ("options", ["public", "sales"])):
        assert synthesis.templates[name].one("Custom::DatabaseUser")["Schemas"] == schemas


def test_the_user_is_made_anew_when_what_makes_it_has_changed(template: Template) -> None:
    """CloudFormation calls again where a property differs."""
    assert len(template.one("Custom::DatabaseUser")["Version"]) == 64
