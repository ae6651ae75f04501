"""``[transform] python``: functions over whole record batches, from the package that a deployment ships for them.

A spec may come from a bucket, so it names a function and brings none: ``"trips:clean"`` is the function
``clean`` of the module ``trips`` in the package named by ``$LOADER_HOOKS`` (``loader_hooks`` by default), and
only if that module itself defines it.

Each row that a hook is given carries its record's number: in the column `RECORD` of a batch, in the index of a frame.
So the loader knows which record a row is of, whatever order the hook gives rows back in.
"""

from __future__ import annotations

import datetime
import importlib
import importlib.util
import ipaddress
import math
import os
import typing
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loader.convert.hook_results import float_text, span_text
from loader.core import arrays
from loader.core.display import brief
from loader.core.errors import SpecError, TransformError
from loader.core.suggestions import listed
from loader.core.vectors import Numbers

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_PACKAGE = "loader_hooks"

RECORD = "loader_record"
"""The column of a batch, and the name of a frame's index, with the number of each row's record in the file."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The function ``name`` of the deployment's package; ``over_frames``: over pandas' frames instead of batches."""

    name: str
    function: Callable[[Any], Any]
    over_frames: bool

    def __call__(self, batch: pa.RecordBatch, numbers: Numbers | None = None) -> pa.RecordBatch:
        """What the function makes of ``batch``: columns of the same names in their order, of any type, and a row for
        each of its rows, in their order.

        ``numbers``: of the rows' records, rising, shape (n,); by default from 1. Raises TransformError.
        """
        if numbers is None:
            numbers = np.arange(1, batch.num_rows + 1)
        asked = _frame_of(batch, numbers) if self.over_frames else _with_record(batch, numbers)
        try:
            given = self.function(asked)
        except (Exception, SystemExit) as error:  # sys.exit() would end the command as if it had loaded the file
            raise TransformError(
                f'the hook "{self.name}" raised {type(error).__name__}: {brief(str(error))}'
            ) from error
        wanted = batch.schema.names
        try:
            return _of_frame(given, wanted, numbers) if self.over_frames else _of_batch(given, wanted, numbers)
        except _UnusableError as error:
            raise TransformError(f'the hook "{self.name}" returned {error}') from error.__cause__


class _UnusableError(Exception):
    """What a hook returned cannot be used; says what it is."""


def find_hook(name: str) -> Hook:
    """The hook ``module:function``. Raises SpecError where there is no such function."""
    function = _function(name)
    return Hook(name, function, _wants_frame(function))


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


# --- record batches


def _with_record(batch: pa.RecordBatch, numbers: Numbers) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [*batch.columns, arrays.integers(numbers)], [*batch.schema.names, _record_column(batch.schema.names)]
    )


def _record_column(names: list[str]) -> str:
    """`RECORD`, or longer where a column has that name."""
    name = RECORD
    while name in names:
        name += "_"
    return name


def _of_batch(made: Any, wanted: list[str], numbers: Numbers) -> pa.RecordBatch:
    """The columns ``wanted`` of the batch, a row for each of ``numbers``. Raises _UnusableError."""
    if not isinstance(made, pa.RecordBatch):
        raise _UnusableError(f"{type(made).__name__}, not a RecordBatch")
    try:
        made.validate()
    except pa.ArrowException as error:
        raise _UnusableError(f"a RecordBatch that is not valid: {brief(str(error))}") from error
    record = _record_column(wanted)
    _check_shape([name for name in made.schema.names if name != record], made.num_rows, wanted, len(numbers))
    places = made.schema.get_all_field_indices(record)
    chosen = pa.RecordBatch.from_arrays([made.column(name) for name in wanted], wanted)
    if not places:  # a batch that was made anew: its rows are taken to be in their order
        return chosen
    found = made.column(places[0])
    if len(places) > 1 or not pa.types.is_integer(found.type) or found.null_count:
        raise _UnusableError(f'something else than the records\' numbers in the column "{record}"')
    order = _order(arrays.numbers(found), numbers)
    if order is None:
        raise _UnusableError(f'other records than it was given, by the column "{record}"')
    return chosen if _is_rising(order) else chosen.take(arrays.integers(order))


def _check_shape(names: list[Any], rows: int, wanted: list[str], rows_wanted: int) -> None:
    if rows != rows_wanted:
        raise _UnusableError(f'{rows} rows for {rows_wanted}; leave rows out with "filter"')
    if len(set(names)) < len(names):
        twice = [str(name) for name in dict.fromkeys(names) if names.count(name) > 1]
        raise _UnusableError(f"several columns of one name: {listed(twice)}")
    if set(names) != set(wanted):
        raise _UnusableError(f"the columns {brief(str(names))}, not {brief(str(wanted))}")


def _order(found: npt.NDArray[Any], numbers: Numbers) -> Numbers | None:
    """Where the row of each record is, by the numbers ``found`` beside the rows; None where they are not the same."""
    order: Numbers = np.argsort(found, kind="stable")
    return order if np.array_equal(found[order], numbers) else None


def _is_rising(order: Numbers) -> bool:
    return bool((np.diff(order) > 0).all())


# --- frames


def _frame_of(batch: pa.RecordBatch, numbers: Numbers) -> pd.DataFrame:
    import pandas as pd

    frame = batch.to_pandas(types_mapper=pd.ArrowDtype)
    frame.index = pd.Index(numbers, name=RECORD)
    return frame


def _of_frame(made: Any, wanted: list[str], numbers: Numbers) -> pa.RecordBatch:
    """The columns ``wanted`` of the frame, a row for each of ``numbers``. Raises _UnusableError."""
    import pandas as pd

    if not isinstance(made, pd.DataFrame):
        raise _UnusableError(f"{type(made).__name__}, not a DataFrame")
    _check_shape(list(made.columns), len(made), wanted, len(numbers))
    index = made.index
    order = _order(index.to_numpy(), numbers) if pd.api.types.is_integer_dtype(index.dtype) else None
    if order is None:
        raise _UnusableError(
            "a frame with another index than it was given, and the index says which record a row is of: keep it, or "
            "give it back with set_index() where the rows are in their order"
        )
    if not _is_rising(order):
        made = made.iloc[order]
    return pa.RecordBatch.from_arrays([_array_of(made[name], name) for name in wanted], wanted)


def _array_of(series: pd.Series[Any], name: str) -> pa.Array:
    """A column of a frame; of objects that are not all texts, bytes, lists or mappings, each one's text."""
    try:
        if series.dtype == object and not all(isinstance(each, _ARROWS) or _is_missing(each) for each in series):
            return _texts_of(series, name)
        made = pa.Array.from_pandas(series)
    except UnicodeEncodeError:  # lone surrogates
        return _texts_of(series, name)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        why = brief(str(error))
        raise _UnusableError(f'a column "{name}" of {series.dtype} that Arrow cannot hold: {why}') from error
    return made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made


_ARROWS = (str, bytes, list, tuple, dict, np.ndarray)
"""Objects of which Arrow makes columns that mean the same; numbers and times of several kinds it would mix up."""


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _texts_of(series: pd.Series[Any], name: str) -> pa.Array:
    """Python's objects as the texts that a file would hold for them; one with lone surrogates is no valid UTF-8."""
    return pa.array([None if _is_missing(value) else _text_of(value, name) for value in series], pa.binary()).view(
        pa.string()
    )


def _text_of(value: Any, name: str) -> bytes:
    import pandas as pd

    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bool | np.bool_):
        return b"true" if value else b"false"
    if isinstance(value, float | np.floating):
        return float_text(value).encode()
    if isinstance(value, datetime.timedelta | np.timedelta64):
        return span_text(pd.Timedelta(value).value).encode()
    if isinstance(value, int | np.integer | Decimal | uuid.UUID | datetime.date | datetime.time | _ADDRESSES):
        return str(value).encode()
    raise _UnusableError(f'a value of type {type(value).__name__} in the column "{name}", of which there is no text')


_ADDRESSES = (
    ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network
    | ipaddress.IPv4Interface | ipaddress.IPv6Interface
)  # fmt: skip
