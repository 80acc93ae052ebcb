import numpy as np
import pytest

from ravl_core import checks

HALF = np.full((2, 2), 0.5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_unit_rows_of_every_float_type(dtype):
    rows = np.random.default_rng(0).normal(size=(40, 300))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)
    assert checks.unit_rows("e", rows) is rows


def test_what_is_accepted_comes_back_as_an_array():
    assert checks.probability_rows("p", [[0.25, 0.75]]).tolist() == [[0.25, 0.75]]
    assert checks.probability_rows("p", [[0, 1], [1, 0]]).tolist() == [[0, 1], [1, 0]]
    assert checks.probability_rows("p", HALF.astype(np.float16)).dtype == np.float16
    assert checks.class_indices("y", np.array([0, 2], dtype=np.uint8), 3).dtype == np.int64
    assert checks.class_indices("y", [], 3).tolist() == []
    assert checks.sorted_image_index("i", [0, 0, 2], 4).tolist() == [0, 0, 2]
    assert checks.sorted_image_index("i", [], 0).dtype == np.int64
    assert checks.boxes("b", [[0, 0, 4, 2]], width=4, height=2).tolist() == [[0, 0, 4, 2]]
    assert checks.truths("t", [True, False]).dtype == bool
    assert checks.choice("recipe", "ravl", {"ravl": 1, "standard": 2}) == "ravl"
    assert checks.whole_number("k", np.int32(3), 3) == 3
    assert checks.number("level", np.float32(0.5), 0, 1) == 0.5


def test_read_only_and_non_contiguous_arrays_pass_unchanged():
    wide = np.eye(6)[:, ::2][::2].repeat(2, axis=1)[:, ::2]
    wide.setflags(write=False)
    before = wide.copy()
    assert not wide.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(checks.unit_rows("e", wide), before)
    np.testing.assert_array_equal(checks.probability_rows("p", wide), before)
    np.testing.assert_array_equal(wide, before)


@pytest.mark.parametrize(
    "check, arguments, message",
    [
        ("unit_rows", (np.eye(2, dtype=int),), "expected floating-point numbers, got dtype int64"),
        ("unit_rows", (np.eye(2, dtype=bool),), "expected floating-point numbers, got dtype bool"),
        ("unit_rows", (np.eye(2).astype(object),), "expected floating-point numbers, got dtype object"),
        ("unit_rows", (np.eye(2).astype(complex),), "expected floating-point numbers, got dtype complex128"),
        ("unit_rows", (np.eye(2).astype(np.longdouble),), "expected float16, float32 or float64"),
        ("unit_rows", (np.ones(3),), r"expected 2 dimension\(s\), got shape \(3,\)"),
        ("unit_rows", (np.array([[1, 0], [0, 1.01]]),), r"expected rows of norm 1, got norm 1.01 in row 1 \(1 such"),
        ("unit_rows", (np.zeros((1, 3)),), "expected rows of norm 1, got norm 0 in row 0"),
        ("unit_rows", (np.array([[np.inf, 0]]),), "expected finite numbers, got 1 NaN or infinite"),
        ("probability_rows", (HALF > 0,), "expected numbers, got dtype bool"),
        ("probability_rows", (HALF.astype(str),), "expected numbers, got dtype <U"),
        ("probability_rows", (np.array([[1.5, -0.5]]),), "expected probabilities, none below 0, got a smallest value"),
        ("probability_rows", (np.array([[0.5, 0.502]]),), "expected rows that sum to 1, got a sum of 1.002 in row 0"),
        ("probability_rows", (np.array([[np.nan, 1]]),), "expected finite"),
        ("probability_rows", (np.empty((2, 0)),), r"expected at least one class \(column\)"),
        ("class_indices", ([0, 3], 3), "expected integers from 0 to 2, got values from 0 to 3"),
        ("class_indices", ([-1, 0], 3), "expected integers from 0 to 2"),
        ("class_indices", ([0.0, 1.0], 3), "expected integers, got dtype float64"),
        ("class_indices", ([True, False], 3), "expected integers, got dtype bool"),
        ("class_indices", ([[0, 1]], 3), r"expected 1 dimension\(s\), got shape \(1, 2\)"),
        ("sorted_image_index", ([0, 2, 1], 3), "expected a non-decreasing index .* got 1 after 2 at position 2"),
        ("sorted_image_index", ([0, 3], 3), "expected integers from 0 to 2"),
        ("truths", ([0, 1],), r"expected a vector of booleans, got shape \(2,\) and dtype int64"),
        ("truths", (HALF > 0,), "expected a vector of booleans"),
        ("boxes", ([[0, 0, 1]],), "expected 4 columns: x1, y1, x2, y2"),
        ("boxes", ([[0, 0, 2, 2], [1, 0, 1, 2]],), r"expected x1 < x2 and y1 < y2, got \[1, 0, 1, 2\] in row 1"),
        ("boxes", ([[0, 0, 5, 2]], 4, 4), r"expected boxes within \(0, 0, 4, 4\), got \[0, 0, 5, 2\] in row 0"),
        ("boxes", ([[-1, 0, 5, 2]],), "expected boxes within"),
        ("choice", ("ravel", ["standard", "ravl"]), "expected one of 'standard', 'ravl', got 'ravel'; did you mean"),
        ("choice", (3, ["standard", "ravl"]), "expected one of 'standard', 'ravl', got 3$"),
        ("whole_number", (2.0, 1), "expected an integer of 1 or more, got 2.0"),
        ("whole_number", (True, 1), "expected an integer of 1 or more, got True"),
        ("number", (float("nan"),), "expected a number from -inf to inf, got nan"),
        ("number", ("1",), "expected a number from -inf to inf, got '1'"),
        ("number", (2, 0, 1), "expected a number from 0 to 1, got 2"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_what_came(check, arguments, message):
    with pytest.raises(ValueError, match=f"argument: {message}"):
        getattr(checks, check)("argument", *arguments)


def test_lengths_and_columns_are_compared_with_the_first():
    checks.same_length(a=[1, 2], b=np.zeros((2, 3)), c="xy")
    with pytest.raises(ValueError, match="c: expected length 2, as a, got length 3"):
        checks.same_length(a=[1, 2], b=[1, 2], c=[1, 2, 3])
    checks.same_columns(a=HALF, b=np.zeros((7, 2)))
    with pytest.raises(ValueError, match="b: expected 2 columns, as a, got 3"):
        checks.same_columns(a=HALF, b=np.zeros((2, 3)))
