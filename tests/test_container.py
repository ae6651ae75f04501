"""What the image is made of, as far as it can be told without building it."""

from __future__ import annotations

import re
import ssl
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

CONTAINER = Path(__file__).parents[1] / "container"
LOCKS = sorted(CONTAINER.glob("*.lock"))
REQUIREMENT = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?P<rest>(?:.*\\\n)(?:    --hash=.*\n?)+)", re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_locked_requirement_has_hashes(lock: Path) -> None:
    """And names nobody to get it from."""
    text = lock.read_text()
    named = re.findall(r"^[\w.-]+==", text, re.MULTILINE)
    assert len(named) == len(REQUIREMENT.findall(text)) > 0
    assert set(re.findall(r"--(\w[\w-]*)", text)) == {"hash"}
    assert "://" not in text


def test_the_lock_has_what_the_package_asks_for() -> None:
    """A dependency that is added to the package is locked for the image, too."""
    project = tomllib.loads((CONTAINER.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = {
        re.match(r"[\w.-]+", each)[0].lower()  # type: ignore[index]
        for each in [*project["dependencies"], *extras["lambda"], *extras["pandas"]]
    }
    locked = {name for name, *_ in REQUIREMENT.findall((CONTAINER / "requirements.lock").read_text())}
    assert asked <= locked


def certificates() -> list[x509.Certificate]:
    pem = (CONTAINER / "rds-ca-bundle.pem").read_text()
    found = re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pem, re.DOTALL)
    return [x509.load_der_x509_certificate(ssl.PEM_cert_to_DER_cert(each)) for each in found]


def test_the_bundle_has_rds_authorities_and_nobody_else() -> None:
    """Each signs itself, is an authority of Amazon RDS, and is good for years to come."""
    for each in certificates():
        (name,) = each.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        assert re.fullmatch(r"Amazon RDS .* Root CA (RSA2048|RSA4096|ECC384) G1", str(name.value))
        each.verify_directly_issued_by(each)
        assert each.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert each.not_valid_after_utc > datetime(2040, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "region", ["us-east-1", "us-west-2", "eu-central-1", "eu-west-1", "ap-southeast-2", "sa-east-1"]
)
def test_the_bundle_has_all_three_authorities_of_a_region(region: str) -> None:
    """A database's certificate is signed by one of three, as its owner chose."""
    names = [each.subject.rfc4514_string() for each in certificates()]
    assert sum(f"Amazon RDS {region} Root CA" in name for name in names) == 3


def test_nothing_of_the_context_is_left_to_chance() -> None:
    """The build context is a list of what goes in, and the Dockerfile copies nothing else."""
    kept = {line[1:] for line in (CONTAINER.parent / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for line in (CONTAINER / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line and "$" not in line:
            copied |= {source.split("/")[0] for source in line.split()[1:-1]}
    assert copied == kept
