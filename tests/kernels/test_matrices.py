"""Matrices, which the kernels read and write in place whatever their strides."""

from __future__ import annotations

import numpy as np
import pytest
from native_kernels import feature_transform

from streambn.errors import InvalidValueError
from streambn.kernels import BoundColumn, Columns, Layout, reference
from streambn.kernels.interface import ABSENT

PLAIN = Layout([BoundColumn((i,), None) for i in range(5)])
SOME = Layout([BoundColumn((i,), None) for i in (1, 2, 4)])
ORDERS = {
    "rows": lambda a: a,
    "columns": np.asfortranarray,
    "strides": lambda a: np.repeat(np.repeat(a, 3, axis=0), 2, axis=1)[::3, ::2],
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
}


@pytest.mark.parametrize("rows", [0, 1, 9, 1100])
@pytest.mark.parametrize("layout", [PLAIN, SOME], ids=["all columns", "some columns"])
@pytest.mark.parametrize("out_order", ORDERS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_matrix_is_mapped_as_its_columns(native, order, out_order, layout, rows):
    rng = np.random.default_rng(rows)
    for dtype in ("f8", "f4", "f2", "i8", "u2"):
        matrix = (100 * rng.random((rows, 5))).astype(dtype)
        if dtype[0] == "f" and rows:
            matrix[rng.integers(rows), 1] = np.nan
        maps = feature_transform(layout.features, 50.0, 8.0, clip=3.0, affine=(2.0, 1.0))
        for kind in ("f8", "f4", "f2"):
            for inverse in (False, True):
                expected = np.full((rows, 5), 7.0, kind)
                counts = reference.map_matrix(Columns(matrix, layout), maps, inverse, expected)
                out = ORDERS[out_order](np.full((rows, 5), 7.0, kind))
                columns = Columns(ORDERS[order](matrix), layout)
                np.testing.assert_array_equal(
                    native.map_matrix(columns, maps, inverse, out), counts
                )
                np.testing.assert_allclose(out, expected, rtol=1e-6 if kind == "f4" else 1e-15)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros((3, 5)), "shape"),
        (np.zeros((4, 4)), "shape"),
        (np.zeros((4, 5), int), "float16, float32 or float64"),
        (np.zeros((4, 5), ">f8"), "not a native number format"),
        (np.zeros(20), "two dimensions"),
        (np.zeros((4, 5, 1)), "two dimensions"),
        (np.frombuffer(b"0" * 160).reshape(4, 5), "read-only"),
    ],
)
def test_an_output_of_another_form_is_refused(native, out, message):
    columns = Columns(np.zeros((4, 5)), PLAIN)
    with pytest.raises((InvalidValueError, ValueError, BufferError), match=message):
        native.map_matrix(columns, feature_transform(5), False, out)


def test_other_layouts_have_no_place_in_an_output(native):
    lists = Layout([BoundColumn((0,), 5)])
    absent = Layout([BoundColumn((0,), None), BoundColumn((ABSENT,), None)])
    for opened, layout in ((PLAIN, SOME), (SOME, PLAIN), (absent, absent)):
        columns = Columns(np.zeros((4, 5)), opened)
        native._open(columns)
        columns.layout = layout
        with pytest.raises(ValueError):  # noqa: PT011 - there is one reason for each
            native.map_matrix(columns, feature_transform(opened.features), False, np.zeros((4, 5)))
    out = np.zeros((4, 5))  # the values of lists are columns
    native.map_matrix(Columns(np.ones((4, 5)), lists), feature_transform(5, 0.5), False, out)
    assert (out == 0.5).all()
