"""The compiled express lane: a block of CSV becomes COPY's bytes in one pass, without Arrow.

It is optional, like ``psycopg_c``: where no C compiler built it, the other lanes do all of the work with the same
result. ``$LOADER_KERNEL`` is ``auto`` (use it where it is there), ``off``, or ``on`` (fail where it is not there).
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

from loader.core.errors import UsageError

_compiled: ModuleType | None
try:
    _compiled = import_module("loader.kernel._express")
except ImportError:
    _compiled = None

COMPILED = _compiled is not None
"""Whether this installation has it."""


def compiled_kernel() -> ModuleType | None:
    """The extension module, or None where it is not to be used. Raises UsageError for ``$LOADER_KERNEL``."""
    wanted = os.environ.get("LOADER_KERNEL") or "auto"
    if wanted not in ("auto", "off", "on"):
        raise UsageError(f'LOADER_KERNEL is "{wanted}"; it has to be "auto", "on" or "off"')
    if wanted == "on" and _compiled is None:
        raise UsageError(
            'LOADER_KERNEL is "on", but this installation was built without a C compiler: it has no kernel'
        )
    return None if wanted == "off" else _compiled


def kernel_state() -> str:
    """Whether loads use it, in words. Raises UsageError for ``$LOADER_KERNEL``."""
    if compiled_kernel() is not None:
        return "compiled"
    return "compiled, switched off by LOADER_KERNEL" if COMPILED else "not compiled"
