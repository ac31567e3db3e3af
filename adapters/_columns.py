"""Some columns of an array or a frame of scikit-learn: found, taken out, and put back."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.utils import check_array

from streambn.errors import InvalidValueError, SchemaError

from ._arrays import Floats, is_temporal

__all__ = ["find_columns", "is_frame", "put_columns", "take_columns"]


def is_frame(X: Any) -> bool:
    """Return whether the columns of `X` may differ in type."""
    return hasattr(X, "__arrow_c_stream__")


def find_columns(X: Any, names: Sequence[str] | None, columns: Any, exclude: Any) -> list[int]:
    """Return the positions of the columns to normalize.

    Parameters
    ----------
    X : array or frame
    names : sequence of str or None
        Names of its columns; None if they have none.
    columns, exclude
        As for `SklearnNormalizer`.

    Raises
    ------
    InvalidValueError
        A parameter is not of its domain, or no column is left.
    SchemaError
        There is no such column.
    """
    width = X.shape[1]
    if callable(columns):
        if not is_frame(X):
            raise InvalidValueError(
                "columns is a callable, which chooses columns by their types, but X is not a frame "
                "or a table. Give positions, such as columns=[0, 1].",
                argument="columns",
            )
        chosen = {i for i, field in enumerate(_fields(X)) if columns(field)}
    else:
        chosen = set(range(width)) if columns is None else _find("columns", columns, names, width)
    chosen -= _find("exclude", () if exclude is None else exclude, names, width)
    if not chosen:
        raise InvalidValueError(
            f"columns and exclude leave none of the {width} feature(s) of X to normalize. Choose "
            "at least one.",
            argument="exclude" if columns is None else "columns",
        )
    return sorted(chosen)


def _find(argument: str, given: Any, names: Sequence[str] | None, width: int) -> set[int]:
    """Return the positions that names, patterns and positions stand for."""
    entries = None if isinstance(given, str) or not isinstance(given, Iterable) else [*given]
    if entries is None or not all(map(_is_entry, entries)):
        raise InvalidValueError(
            f"{argument} must be a list of names or positions of columns, got {given!r}.",
            argument=argument,
        )
    found: set[int] = set()
    for entry in entries:
        if isinstance(entry, str):
            found.update(_named(argument, entry, names))
        elif -width <= entry < width:
            found.add(int(entry) % width)
        else:
            raise SchemaError(
                f"{argument}: there is no column {entry}, because X has {width} feature(s).",
                argument=argument,
            )
    return found


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, str | Integral) and not isinstance(entry, bool)


def _named(argument: str, entry: str, names: Sequence[str] | None) -> list[int]:
    if names is None:
        raise InvalidValueError(
            f"{argument} has the name {entry!r}, but the columns of X have no names. Give "
            f"positions, such as {argument}=[0], or a frame.",
            argument=argument,
            column=entry,
        )
    found = [i for i, name in enumerate(names) if name == entry]
    if found:
        return found
    if "*" not in entry and "?" not in entry:
        message = SchemaError.missing(entry, names)
        raise SchemaError(f"{argument}: {message}", argument=argument, column=entry)
    found = [i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, entry)]
    if not found and argument == "columns":
        raise SchemaError(
            f"the pattern {entry!r} matches no column of X.", argument=argument, column=entry
        )
    return found


def _fields(X: Any) -> list[pa.Field]:
    if not hasattr(X, "iloc"):
        return list(X.schema if isinstance(X, pa.Table) else pa.table(X).schema)
    # pandas, whose columns may hold objects that Arrow does not know.
    fields = []
    for i, name in enumerate(X.columns):
        try:
            kind = pa.array(X.iloc[:, i], from_pandas=True).type
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            kind = pa.string()
        fields.append(pa.field(str(name), kind))
    return fields


def take_columns(X: Any, positions: list[int]) -> Any:
    """Return some columns of an array or a frame as one of the same kind."""
    if isinstance(X, pa.Table):
        return X.select(positions)
    return X.iloc[:, positions] if hasattr(X, "iloc") else X[:, positions]


def put_columns(X: Any, positions: list[int], values: Floats, container: str) -> Any:
    """Return data with other values in some columns; the rest is unchanged.

    Parameters
    ----------
    X : array or frame
    positions : list of int
        Where the columns of `values` belong.
    values : ndarray
    container : {"default", "pandas", "polars"}
        What a frame becomes. An array stays an array, as do all data with "default".
    """
    if container == "default" or not is_frame(X):
        whole = _as_array(X)
        numeric = whole.dtype.kind in "biuf"
        out = whole.astype(np.result_type(whole, values) if numeric else object)
        out[:, positions] = values
        return out
    if container == "pandas":
        frame = X.to_pandas() if hasattr(X, "to_pandas") else X.copy(deep=False)
        for position, column in zip(positions, values.T, strict=True):
            frame.isetitem(position, column)
        return frame
    polars = importlib.import_module("polars")
    frame = X if isinstance(X, polars.DataFrame) else polars.DataFrame(X)
    new = zip(positions, values.T, strict=True)
    return frame.with_columns(polars.Series(frame.columns[i], column) for i, column in new)


def _as_array(X: Any) -> Any:
    """Return data as an array of their common type, or of objects."""
    if not is_frame(X):
        return check_array(X, dtype=None, ensure_all_finite=False)
    table = None if hasattr(X, "iloc") else pa.table(X)
    kinds = X.dtypes if table is None else table.schema.types
    if not any(map(is_temporal, kinds)):
        return check_array(X, dtype=None, ensure_all_finite=False)
    # NumPy would convert dates to integers, or refuse them beside numbers.
    out = np.empty(X.shape, object)
    for i, kind in enumerate(kinds):
        column = X.iloc[:, i] if table is None else table.column(i)
        as_list = table is not None and is_temporal(kind)
        out[:, i] = column.to_pylist() if as_list else np.asarray(column, object)
    return out
