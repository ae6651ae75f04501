"""``python -m infra.synth [FOLDER]``: the CloudFormation templates of both sizes, as ``make synth`` wants them.

Needs neither Docker nor an account. Ends with status 1 where cdk-nag finds anything that has no reason.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aws_cdk import App

from infra.app import build, flags
from infra.image import ROOT
from infra.sizes import SIZES


def synthesize(size: str, folder: Path, *, excused: bool = True, **context: str) -> Path:
    """The template of ``size``, in ``folder``. Raises RuntimeError where cdk-nag finds anything without a reason."""
    app = App(context={**flags(), "size": size, **context}, outdir=str(folder))
    stack = build(app, excused=excused)
    app.synth()
    return folder / stack.template_file


def main(folder: Path) -> int:
    failed = 0
    for size in SIZES:
        try:
            print(f"{size}: {synthesize(size, folder / size)}")
        except RuntimeError as error:  # cdk-nag has told its findings on standard error
            failed = 1
            print(f"{size}: {error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "cdk"))
