"""Argument checks shared by the package.

Every check takes the argument's name and value, and returns the value as an array or raises a ``ValueError`` that says
which argument it was, what was expected and what came. Inputs are never modified; read-only and non-contiguous arrays
are welcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

import numpy as np

UNIT_TOLERANCE = 2e-3  # float16 embeddings of a few hundred dimensions stay within it
SUM_TOLERANCE = 1e-3
ENTRIES_AT_A_TIME = 2**22


def _refuse(name: str, expected: str, came: str) -> None:
    raise ValueError(f"{name}: expected {expected}, got {came}")


def _describe(array: np.ndarray) -> str:
    return f"shape {array.shape} and dtype {array.dtype}"


def as_array(name: str, value: Any) -> np.ndarray:
    """Whatever NumPy makes an array of."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors with a gradient, or on a GPU
        raise ValueError(f"{name}: expected an array, got {type(value).__name__}: {error}") from error


def own(array: np.ndarray) -> np.ndarray:
    """The array as torch takes it, contiguous and writable; a copy only where it is not."""
    return np.require(array, requirements=["C", "W"])


def numbers(name: str, array: Any, n_dims: int, kinds: str = "iuf") -> np.ndarray:
    """Finite numbers of ``n_dims`` dimensions, of the NumPy dtype kinds ``kinds`` (no booleans, strings, objects)."""
    array = as_array(name, array)
    if array.shape == (0,) and "f" not in kinds and array.dtype.kind != "c":
        array = array.astype(np.int64)  # np.asarray([]) is an array of floats
    if array.dtype.kind not in kinds:
        wanted = "floating-point numbers" if kinds == "f" else "integers" if "f" not in kinds else "numbers"
        _refuse(name, wanted, f"dtype {array.dtype}")
    if array.ndim != n_dims:
        _refuse(name, f"{n_dims} dimension(s)", f"shape {array.shape}")
    if array.dtype.kind == "f":
        n_wrong = sum(np.count_nonzero(~np.isfinite(part)) for part in _parts(array))
        if n_wrong:
            _refuse(name, "finite numbers", f"{n_wrong} NaN or infinite entries")
    return array


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of an array in turn, so that nothing the size of the whole is made beside it."""
    if array.ndim == 0:
        return iter([array])
    size = max(1, ENTRIES_AT_A_TIME // max(array[:1].size, 1))
    return (array[start : start + size] for start in range(0, len(array), size))


def unit_rows(name: str, array: Any) -> np.ndarray:
    """Embeddings: a float16, float32 or float64 array of two dimensions whose rows have norm 1 (to 2e-3)."""
    array = numbers(name, array, 2, "f")
    if array.dtype.itemsize > 8:
        _refuse(name, "float16, float32 or float64", f"dtype {array.dtype}")
    squares = [np.einsum("ij,ij->i", part, part, dtype=np.float64) for part in _parts(array)]
    norms = np.sqrt(np.concatenate(squares)) if squares else np.empty(0)
    off = np.abs(norms - 1) > UNIT_TOLERANCE
    if off.any():
        row = int(off.argmax())
        _refuse(name, "rows of norm 1", f"norm {norms[row]:.4g} in row {row} ({np.count_nonzero(off)} such rows)")
    return array


def probability_rows(name: str, array: Any) -> np.ndarray:
    """Distributions over classes: non-negative rows that sum to 1 (to 1e-3)."""
    array = numbers(name, array, 2)
    if array.shape[1] == 0:
        _refuse(name, "at least one class (column)", f"shape {array.shape}")
    if (array < 0).any():
        _refuse(name, "probabilities, none below 0", f"a smallest value of {array.min():.4g}")
    totals = array.sum(axis=1, dtype=np.float64)
    off = np.abs(totals - 1) > SUM_TOLERANCE
    if off.any():
        row = int(off.argmax())
        came = f"a sum of {totals[row]:.4g} in row {row} ({np.count_nonzero(off)} such rows)"
        _refuse(name, "rows that sum to 1", came)
    return array


def integers(name: str, array: Any, low: int, high: int) -> np.ndarray:
    """A vector of integers between ``low`` and ``high``, both included, as int64."""
    array = numbers(name, array, 1, "iu")
    if array.size and (array.min() < low or array.max() > high):
        _refuse(name, f"integers from {low} to {high}", f"values from {array.min()} to {array.max()}")
    return array.astype(np.int64, copy=False)


def class_indices(name: str, array: Any, n_classes: int) -> np.ndarray:
    """Labels: a vector of class indices 0 … ``n_classes`` - 1."""
    return integers(name, array, 0, n_classes - 1)


def sorted_image_index(name: str, array: Any, n_images: int) -> np.ndarray:
    """The image each region belongs to: non-decreasing, 0 … ``n_images`` - 1; an image may have no region."""
    array = integers(name, array, 0, n_images - 1)
    falls = np.flatnonzero(np.diff(array) < 0)
    if falls.size:
        at = int(falls[0])
        came = f"{array[at + 1]} after {array[at]} at position {at + 1}"
        _refuse(name, "a non-decreasing index (regions stored image by image)", came)
    return array


def images(name: str, array: Any) -> np.ndarray:
    """Images (N, H, W, 3) of whole numbers 0 … 255: floats would be scaled once too often."""
    array = as_array(name, array)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape[1:]:
        _refuse(name, "uint8 of shape (N, H, W, 3)", f"{array.dtype} of shape {array.shape}")
    return array


def truths(name: str, array: Any) -> np.ndarray:
    """A vector of booleans."""
    array = as_array(name, array)
    if array.shape == (0,):
        array = array.astype(bool)
    if array.dtype != bool or array.ndim != 1:
        _refuse(name, "a vector of booleans", _describe(array))
    return array


def boxes(name: str, array: Any, width: float = np.inf, height: float = np.inf) -> np.ndarray:
    """Boxes (M, 4) as x1, y1, x2, y2 with x1 < x2 and y1 < y2, inside 0 … ``width`` and 0 … ``height``."""
    array = numbers(name, array, 2)
    if array.shape[1] != 4:
        _refuse(name, "4 columns: x1, y1, x2, y2", f"shape {array.shape}")
    x1, y1, x2, y2 = array.T
    empty = (x1 >= x2) | (y1 >= y2)
    if empty.any():
        _refuse(name, "x1 < x2 and y1 < y2", f"{array[empty.argmax()].tolist()} in row {empty.argmax()}")
    outside = (x1 < 0) | (y1 < 0) | (x2 > width) | (y2 > height)
    if outside.any():
        came = f"{array[outside.argmax()].tolist()} in row {outside.argmax()}"
        _refuse(name, f"boxes within (0, 0, {width}, {height})", came)
    return array


def same_length(**arrays: Any) -> None:
    """All arrays, given by their names, have as many entries as the first."""
    (first, reference), *others = arrays.items()
    for name, array in others:
        if len(array) != len(reference):
            _refuse(name, f"length {len(reference)}, as {first}", f"length {len(array)}")


def same_columns(**arrays: np.ndarray) -> None:
    """All arrays, given by their names, have as many columns as the first."""
    (first, reference), *others = arrays.items()
    for name, array in others:
        if array.shape[1] != reference.shape[1]:
            _refuse(name, f"{reference.shape[1]} columns, as {first}", f"{array.shape[1]}")


def whole_number(name: str, value: Any, low: int) -> int:
    """One integer, ``low`` or more."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < low:
        _refuse(name, f"an integer of {low} or more", repr(value))
    return int(value)


def whole_numbers(name: str, values: Any, low: int) -> list[int]:
    """Integers of ``low`` or more, in their order; of any iterable."""
    if not isinstance(values, Iterable):
        _refuse(name, "a sequence of integers", repr(values))
    return [whole_number(name, value, low) for value in values]


def number(name: str, value: Any, low: float = -np.inf, high: float = np.inf) -> float:
    """One number between ``low`` and ``high``, both included; not NaN."""
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not real or not low <= value <= high:
        _refuse(name, f"a number from {low} to {high}", repr(value))
    return float(value)


def above_zero(name: str, value: Any) -> float:
    """One finite number above 0."""
    if (value := number(name, value, 0)) in (0, np.inf):
        _refuse(name, "a finite number above 0", repr(value))
    return value


def words(name: str, values: Any, least: int = 0) -> tuple[str, ...]:
    """At least so many strings, none of them empty."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        _refuse(name, "a list of strings", repr(values))
    values = tuple(values)
    wrong = [value for value in values if not (isinstance(value, str) and value.strip())]
    if wrong:
        _refuse(name, "strings that are not empty", repr(wrong[0]))
    if len(values) < least:
        _refuse(name, f"at least {least}", repr(list(values)))
    return values


def made(name: str, value: Any, expected: str, attribute: str) -> None:
    """What another function has made, such as a model; told by an attribute that it has, so that a stand-in passes."""
    if not hasattr(value, attribute):
        _refuse(name, expected, f"{type(value).__name__} {value!r:.60}")


def choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    """One of a few words; the error names the nearest match."""
    allowed = list(allowed)
    if isinstance(value, str) and value in allowed:
        return value
    raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}{nearest(value, allowed)}")


def nearest(value: Any, allowed: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest one there is, or nothing."""
    near = get_close_matches(str(value), list(allowed), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
