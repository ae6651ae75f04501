"""The one image that all of the loader's functions run: container/Dockerfile, built from the repository's root.

Synthesis only takes a fingerprint of what goes in, which is what .dockerignore leaves; Docker is wanted when it is
deployed.
"""

from __future__ import annotations

from pathlib import Path

from aws_cdk import IgnoreMode
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = "container/Dockerfile"

ARCHITECTURES = {
    "x86_64": (lambda_.Architecture.X86_64, ecr_assets.Platform.LINUX_AMD64),
    "arm64": (lambda_.Architecture.ARM_64, ecr_assets.Platform.LINUX_ARM64),
}


class Image:
    """The image for one ``architecture``, x86_64 or arm64, which the machine that builds it must be able to build."""

    def __init__(self, architecture: str) -> None:
        if architecture not in ARCHITECTURES:
            raise ValueError(f'architecture "{architecture}": there are {", ".join(ARCHITECTURES)}')
        self.name = architecture
        self.architecture, self._platform = ARCHITECTURES[architecture]

    def running(self, command: str) -> lambda_.DockerImageCode:
        """The image with ``command``, ``module.function``, as the function's handler."""
        return lambda_.DockerImageCode.from_image_asset(
            str(ROOT),
            file=DOCKERFILE,
            cmd=[command],
            platform=self._platform,
            ignore_mode=IgnoreMode.DOCKER,
        )

    def asset(self, scope: Construct, id: str) -> ecr_assets.DockerImageAsset:
        """The very same image for whoever is no function."""
        return ecr_assets.DockerImageAsset(
            scope,
            id,
            directory=str(ROOT),
            file=DOCKERFILE,
            platform=self._platform,
            ignore_mode=IgnoreMode.DOCKER,
        )
