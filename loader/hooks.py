"""``[transform] python``: functions over whole record batches, from the package that a deployment ships for them.

A spec may come from a bucket, so it names a function and brings none: ``"trips:clean"`` is the function
``clean`` of the module ``trips`` in the package named by ``$LOADER_HOOKS`` (``loader_hooks`` by default), and
only if that module itself defines it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import typing
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from loader.errors import SpecError, TransformError
from loader.values import brief

Hook = Callable[[pa.RecordBatch], pa.RecordBatch]

DEFAULT_PACKAGE = "loader_hooks"


def find_hook(name: str) -> Hook:
    """The hook ``module:function``, wrapped so that it gives as many rows of the same columns and types, or raises.

    Raises SpecError where there is no such function; the wrapped hook raises TransformError.
    """
    function = _function(name)
    over_frames = _wants_frame(function)

    def hook(batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            given = function(batch.to_pandas(types_mapper=_arrow_backed)) if over_frames else function(batch)
            made = pa.RecordBatch.from_pandas(given, preserve_index=False) if over_frames else given
        except (Exception, SystemExit) as error:  # sys.exit() would end the command as if it had loaded the file
            raise TransformError(f'the hook "{name}" raised {type(error).__name__}: {brief(str(error))}') from error
        return _same_shape(name, batch, made)

    return hook


def _function(name: str) -> Callable[[Any], Any]:
    package = os.environ.get("LOADER_HOOKS", DEFAULT_PACKAGE)
    module_name, _, function_name = name.partition(":")
    if not (module_name.isidentifier() and function_name.isidentifier()) or "_" in (
        module_name[0],
        function_name[0],
    ):
        raise SpecError([f'transform.python: "{name}" is not of the form module:function'])
    if not all(part.isidentifier() for part in package.split(".")):
        raise SpecError([f'transform.python: LOADER_HOOKS is "{package}", and has to be the name of a package'])
    full_name = f"{package}.{module_name}"
    try:
        module = importlib.import_module(full_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{full_name}.".startswith(f"{error.name}."):
            missing = f'there is no module "{module_name}" in the package "{package}"'
        else:
            missing = f'the module "{full_name}" imports "{error.name}", which is not installed'
        raise SpecError([f"transform.python: {missing}"]) from error
    except (Exception, SystemExit) as error:  # whatever its code does when it is imported
        cause = f"{type(error).__name__}: {error}"
        raise SpecError([f'transform.python: the module "{full_name}" cannot be imported: {cause}']) from error
    function = getattr(module, function_name, None)
    if not callable(function) or getattr(function, "__module__", None) != full_name:
        raise SpecError([f'transform.python: "{full_name}" defines no function "{function_name}"'])
    return typing.cast(Callable[[Any], Any], function)


def _wants_frame(function: Callable[[Any], Any]) -> bool:
    """Whether the first parameter is annotated as a pandas.DataFrame; pandas is not imported to find out."""
    annotations = [each for key, each in getattr(function, "__annotations__", {}).items() if key != "return"]
    if not annotations:
        return False
    first = annotations[0]
    text = first if isinstance(first, str) else str(getattr(first, "__qualname__", first))
    return text.rpartition(".")[2] == "DataFrame"


def _arrow_backed(kind: pa.DataType) -> Any:
    import pandas as pd

    return pd.ArrowDtype(kind)


def _same_shape(name: str, given: pa.RecordBatch, made: Any) -> pa.RecordBatch:
    if not isinstance(made, pa.RecordBatch):
        raise TransformError(f'the hook "{name}" returned {type(made).__name__}, not a RecordBatch')
    if made.num_rows != given.num_rows:
        raise TransformError(
            f'the hook "{name}" returned {made.num_rows} rows for {given.num_rows}; leave rows out with "filter"'
        )
    if made.schema.names != given.schema.names:
        raise TransformError(f'the hook "{name}" returned the columns {made.schema.names}, not {given.schema.names}')
    try:
        return made.cast(given.schema)
    except (pa.ArrowException, TypeError, ValueError) as error:  # a value that does not fit, or a cast that no type has
        had, wanted = next(
            (pair for pair in zip(made.schema, given.schema, strict=True) if pair[0].type != pair[1].type),
            (made.schema[0], given.schema[0]),
        )
        types = f'"{wanted.name}" is {had.type} and has to be {wanted.type}'
        raise TransformError(
            f'the hook "{name}" returned values that do not fit: {brief(str(error))}; {types}'
        ) from error
