"""update_transform row by row: each row by the statistics as of that row, whatever the batches."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from normalizers import bits, column, fit, record, xs

import streambn as sbn
from streambn import kernels
from streambn.testing import cuts

ROWS = 40
POLICIES: dict[str, Any] = {
    "welford": sbn.Welford(),
    "exact": sbn.Exact(),
    "ema": sbn.EMA(alpha=0.3),
    "ema all": sbn.EMA(alpha=1),
    "ema slow": sbn.EMA(halflife=1e4),
    "ema ignoring nulls": sbn.EMA(halflife=4, ignore_na=True),
    "ema recursive": sbn.EMA(span=5, adjust=False),
    "ema recursive ignoring nulls": sbn.EMA(com=2, adjust=False, ignore_na=True),
}
TIMED = sbn.EMA(halflife="30s", time="t")
each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
each_using = pytest.mark.parametrize("using", ["running", "before"])
# The kernel takes another path for each of these: options of the map, and kinds of values.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sample variance": {"ddof": 1},
    "eps": {"eps": 0.01},
    "clip and affine": {"clip": 1.5, "affine": {"x": (2.0, -1.0)}},
    "mean only": {"scale": False},
    "scale only": {"center": False, "ddof": 1},
    "propagate": {"nan": "propagate", "inf": "propagate"},
    "min_count": {"min_count": 3},
}


def rows_of(seed: int, *, nulls: float = 0.2, rows: int = ROWS) -> pa.RecordBatch:
    """Return columns of many types, some with nulls and NaN."""
    rng = np.random.default_rng(seed)

    def sparse(values: Any, kind: pa.DataType | None = None) -> pa.Array:
        return pa.array(values, kind, mask=rng.random(rows) < nulls, from_pandas=False)

    x = rng.normal(100, 3, rows)
    with_nan = np.where(rng.random(rows) < 0.1, np.nan, x)
    return record(
        x=pa.array(x),
        y=pa.array(rng.choice([0.0, 1.0, -2.5], rows)),
        offset=pa.array(1e9 + rng.normal(size=rows)),
        sparse=sparse(rng.normal(size=rows)),
        nans=pa.array(with_nan, from_pandas=False),
        single=sparse(x.astype(np.float32)),
        half=pa.array(x.astype(np.float16)),
        whole=sparse(rng.integers(-9, 9, rows)),
        large=pa.array(2**60 + rng.integers(0, 9, rows)),
        byte=pa.array(rng.integers(0, 99, rows).astype(np.uint8)),
        unsigned=pa.array(np.uint64(2**63) + rng.integers(0, 9, rows).astype(np.uint64)),
        decimal=sparse([Decimal(int(n)) / 8 for n in rng.integers(0, 99, rows)],
                       pa.decimal128(20, 3)),
        extreme=pa.array(x * 1e300),
        constant=pa.array(np.full(rows, 0.1)),
        never=pa.nulls(rows, pa.float64()),
    )  # fmt: skip


def one_by_one(policy: Any, batch: pa.RecordBatch, using: str, **options: Any) -> list[list[Any]]:
    """Return what RowNormalizer makes of each row; None where it has no statistics."""
    norm, out = sbn.RowNormalizer(policy, unseen="raise", **options), []
    for row in batch.to_pylist():
        if using == "running":
            norm.learn_one(row)
        values = []
        for name, value in row.items():
            try:
                values.append(norm.transform_one({name: value})[name])
            except sbn.errors.NotFittedError:
                values.append(None)
        out.append(values)
        if using == "before":
            norm.learn_one(row)
    return out


def in_batches(
    norm: sbn.Normalizer, pieces: list[pa.RecordBatch], using: str, **how: Any
) -> list[pa.RecordBatch]:
    return [norm.update_transform(piece, using, by_row=True, **how) for piece in pieces]


def values_of(batches: list[pa.RecordBatch]) -> list[list[Any]]:
    """Return the values of all rows."""
    return [list(row.values()) for batch in batches for row in batch.to_pylist()]


def assert_same(found: list[list[Any]], expected: list[list[Any]], rtol: float = 0.0) -> None:
    """Check rows of values and nulls."""
    for row, wanted in zip(found, expected, strict=True):
        assert [v is None for v in row] == [v is None for v in wanted]
        pair = [np.array([v for v in side if v is not None], float) for side in (row, wanted)]
        np.testing.assert_allclose(*pair, rtol=rtol, atol=rtol)


# ---------------------------------------------------------- equal to rows that come one by one


@each_using
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "policy", [p for name, p in POLICIES.items() if name != "exact"],
    ids=[name for name in POLICIES if name != "exact"],
)  # fmt: skip
def test_rows_are_those_of_single_rows_bit_for_bit(policy: Any, options: Any, using: str) -> None:
    batch = rows_of(1)
    norm = sbn.Normalizer(policy, **options)
    pieces = [batch.slice(0, 1), batch.slice(1, 0), batch.slice(1, 12), batch.slice(13)]
    found = values_of(in_batches(norm, pieces, using, dtype=pa.float64()))
    assert_same(found, one_by_one(policy, batch, using, **options))


@each_using
def test_rows_by_event_time_are_those_of_single_rows(using: str) -> None:
    batch = rows_of(2).append_column(
        "t", pa.array(np.arange(ROWS) // 2 * 7_000, pa.timestamp("ms"))
    )
    norm = sbn.Normalizer(TIMED)
    found = values_of(in_batches(norm, [batch.slice(0, 9), batch.slice(9)], using))
    expected = one_by_one(TIMED, batch, using)
    assert_same([row[:-1] for row in found], [row[:-1] for row in expected], rtol=2e-3)  # float16
    doubles = [batch.schema.get_field_index(name) for name in ("x", "offset", "sparse", "decimal")]
    assert_same(*[[[row[i] for i in doubles] for row in side] for side in (found, expected)],
                rtol=1e-12)  # fmt: skip


@each_using
def test_exact_statistics_map_rows_as_one_by_one(using: str) -> None:
    batch = rows_of(3).drop_columns(["half", "extreme"])
    norm = sbn.Normalizer(sbn.Exact())
    found = values_of(in_batches(norm, [batch.slice(0, 9), batch.slice(9)], using,
                                 dtype=pa.float64()))  # fmt: skip
    assert_same(found, one_by_one(sbn.Exact(), batch, using), rtol=1e-13)
    assert norm.statistics.state == fit(batch, policy=sbn.Exact()).statistics.state


def test_wide_values_and_kinds_share_one_result() -> None:
    """Eight features at a time take another path than one, and than columns with nulls."""
    batch = rows_of(4, nulls=0.0, rows=1200)
    together = sbn.Normalizer(sbn.EMA(halflife=50)).update_transform(batch, by_row=True)
    for name in batch.schema.names:
        alone = sbn.Normalizer(sbn.EMA(halflife=50)).update_transform(
            batch.select([name]), by_row=True
        )
        assert_same([column(together, name)], [column(alone, name)])


# ---------------------------------------------------------------------- other oracles


def test_a_fraction_is_the_oracle_of_few_rows() -> None:
    values = [1.0, 3.0, 2.0, 9.0, 9.0, -4.0]
    out = column(sbn.Normalizer().update_transform(xs(*values), "before", by_row=True))
    assert out[0] is None
    for n in range(1, len(values)):
        past = [Fraction(v) for v in values[:n]]
        mean = sum(past) / n
        var = sum((v - mean) ** 2 for v in past) / n
        scale = math.sqrt(var) if var else 1.0
        assert out[n] == pytest.approx(float(Fraction(values[n]) - mean) / scale, rel=1e-15)


def frame(rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    values = rng.normal(50, 4, (rows, 3))
    values[rng.random((rows, 3)) < 0.1] = np.nan
    values[:, 0] = rng.normal(1e6, 1, rows)
    return pd.DataFrame(values, columns=["a", "b", "c"])


def check_pandas(norm: sbn.Normalizer, data: pd.DataFrame, windows: Any, using: str) -> None:
    mean, std = windows.mean(), windows.std()
    if using == "before":
        mean, std = mean.shift(1), std.shift(1)
    expected = (data - mean) / std.where(std > 0, 1.0)
    expected[mean.isna()] = np.nan
    table = pa.Table.from_pandas(data, preserve_index=False)
    found = norm.update_transform(table, using, by_row=True).to_pandas()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@each_using
def test_rows_are_those_of_pandas_expanding(using: str) -> None:
    data = frame()
    check_pandas(sbn.Normalizer(ddof=1), data, data.expanding(), using)


@each_using
@pytest.mark.parametrize("ignore_na", [False, True])
@pytest.mark.parametrize("adjust", [True, False])
def test_rows_are_those_of_pandas_ewm(adjust: bool, ignore_na: bool, using: str) -> None:
    data, how = frame(), {"adjust": adjust, "ignore_na": ignore_na}
    norm = sbn.Normalizer(sbn.EMA(halflife=10, **how), ddof=1)
    check_pandas(norm, data, data.ewm(halflife=10, **how), using)


@each_using
def test_rows_by_event_time_are_those_of_pandas_ewm(using: str) -> None:
    data = frame()[["a"]]
    at = pd.Timestamp("2026-03-01") + pd.to_timedelta(np.arange(len(data)) ** 1.5, unit="s")
    table = pa.table({"a": data["a"].to_numpy(), "t": pa.array(at.to_numpy())})
    mean = data.ewm(halflife="30s", times=at).mean()
    mean = mean.shift(1) if using == "before" else mean
    norm = sbn.Normalizer(TIMED, columns=["a"], scale=False)
    found = norm.update_transform(table, using, by_row=True)["a"].to_numpy(zero_copy_only=False)
    np.testing.assert_allclose(found, (data - mean)["a"], rtol=1e-6, atol=1e-8)


# ---------------------------------------------------------------------- cuts, and no look-ahead


@each_policy
@each_using
@settings.get_profile("few")
@given(data=st.data())
def test_cuts_show_nowhere(policy: Any, using: str, data: st.DataObject) -> None:
    batch = rows_of(data.draw(st.integers(0, 9)), rows=data.draw(st.sampled_from([1, 9])))
    if policy.exact:  # see Exact.map_series
        batch = batch.drop_columns(["half"])
    whole = sbn.Normalizer(policy)
    expected = values_of(in_batches(whole, [batch], using))
    norm = sbn.Normalizer(policy)
    found = values_of(in_batches(norm, data.draw(cuts([batch])), using))
    assert_same(found, expected, rtol=1e-13 if policy.exact else 0.0)
    assert bits(norm) == bits(whole)


@each_policy
@each_using
def test_no_row_sees_a_later_one(policy: Any, using: str) -> None:
    batch = xs(1.0, 3.0, 2.0, 5.0)
    outlier = xs(1.0, 3.0, 2.0, 5.0, 1e300, -1e300)
    alone = column(sbn.Normalizer(policy).update_transform(batch, using, by_row=True))
    found = column(sbn.Normalizer(policy).update_transform(outlier, using, by_row=True))
    assert found[:4] == alone


@each_policy
def test_the_state_is_that_of_update_and_merges(policy: Any) -> None:
    batch = rows_of(7)
    first, second = batch.slice(0, 25), batch.slice(25)
    norm = sbn.Normalizer(policy)
    norm.update_transform(first, by_row=True)
    merged = norm.merge(fit(second, policy=policy)).stats()
    whole = fit(batch, policy=policy).stats()
    for name in whole.schema.names:
        if name in ("mean", "var", "std", "weight", "effective_count"):
            found, expected = (t[name].to_numpy(zero_copy_only=False) for t in (merged, whole))
            np.testing.assert_allclose(found, expected, rtol=1e-9)
        else:
            assert merged[name].equals(whole[name])


@pytest.mark.skipif(
    kernels.active != "native",
    reason="needs the compiled kernels: install streambn where there is a C++ compiler",
)
def test_threads_change_no_bit() -> None:
    batch = rows_of(8, rows=20_000)
    batch = pa.RecordBatch.from_arrays(
        batch.columns * 2, names=[f"{name}{i}" for i in range(2) for name in batch.schema.names]
    )
    outputs = []
    for count in (1, 3):
        kernels.set_threads(count)
        outputs.append(sbn.Normalizer().update_transform(batch, by_row=True))
    kernels.set_threads(1)
    for one, other in zip(*(out.columns for out in outputs), strict=True):
        assert one.buffers()[1].equals(other.buffers()[1])
        assert one.is_valid().equals(other.is_valid())


# ---------------------------------------------------------------------- kinds of data


def test_a_stream_is_mapped_lazily() -> None:
    schema = pa.schema({"x": pa.float64()})
    pieces = [pa.record_batch({"x": values}) for values in ([1.0, 3.0], [], [2.0, 9.0])]
    norm = sbn.Normalizer()
    reader = norm.update_transform(
        pa.RecordBatchReader.from_batches(schema, pieces), "before", by_row=True
    )
    assert reader.read_next_batch()["x"].to_pylist() == [None, 2.0]
    assert norm.stats()["count"].to_pylist() == [2]
    assert column(reader) == [0.0, 8.573214099741124]
    assert norm.stats()["count"].to_pylist() == [4]


def test_a_frame_of_pandas_comes_back_as_one() -> None:
    out = sbn.Normalizer().update_transform(pd.DataFrame({"x": [1.0, 3.0]}), "before", by_row=True)
    assert isinstance(out, pd.DataFrame)
    assert out["x"].isna().tolist() == [True, False]


def test_nested_and_encoded_columns_keep_their_shape() -> None:
    plain = pa.array([1.0, 3.0, None, 9.0])
    values = pa.array([1.0, 1.0, 3.0, 3.0, None, None, 9.0, 9.0])
    batch = record(
        plain=plain,
        vector=pa.FixedSizeListArray.from_arrays(values, 2),
        lists=pa.array([[1.0], [3.0], None, [9.0]], pa.list_(pa.float64())),
        struct=pa.array([{"a": 1}, {"a": 3}, None, {"a": 9}]),
        dictionary=plain.dictionary_encode(),
        runs=pa.RunEndEncodedArray.from_arrays([1, 2, 3, 4], plain),
        text=pa.array(["a", "b", "c", "d"]),
    )
    names = [name for name in batch.schema.names if name != "text"]
    out = sbn.Normalizer(columns=names).update_transform(batch, "before", by_row=True)
    expected = [None, 2.0, None, 7.0]
    assert column(out, "plain") == column(out, "dictionary") == column(out, "runs") == expected
    assert column(out, "vector") == [[None] * 2, [2.0] * 2, [None] * 2, [7.0] * 2]
    assert column(out, "lists") == [[None], [2.0], None, [7.0]]
    assert column(out, "struct") == [{"a": None}, {"a": 2.0}, None, {"a": 7.0}]
    assert column(out, "text") == ["a", "b", "c", "d"]
    out.validate(full=True)


def test_columns_of_a_union_come_and_go() -> None:
    norm = sbn.Normalizer(sbn.EMA(alpha=0.5), schema="union", affine={"b": (2.0, 0.0)})
    pieces = [record(a=[1.0, 3.0]), record(b=[1, 5], a=[2.0, None]), record(b=[3])]
    found = [out.to_pydict() for out in in_batches(norm, pieces, "before")]
    rows = [{"a": 1.0}, {"a": 3.0}, {"b": 1, "a": 2.0}, {"b": 5, "a": None}, {"b": 3}]
    one = sbn.RowNormalizer(sbn.EMA(alpha=0.5), affine={"b": (2.0, 0.0)})
    for row in rows[:4]:
        one.learn_one(row)
    assert found[2] == {"b": [one.transform_one({"b": 3})["b"]]}
    assert found[0] == {"a": [None, 2.0]}
    assert found[1]["b"] == [None, 8.0]
    assert norm.stats()["nulls"].to_pylist() == [2, 2]


def test_a_column_without_a_type_yet_stays_null() -> None:
    norm = sbn.Normalizer()
    pieces = [record(x=[1.0, 2.0], y=pa.nulls(2)), record(x=[3.0, 4.0], y=[5.0, 6.0])]
    first, second = (
        norm.update_transform(pa.Table.from_batches([piece]), "before", by_row=True)
        for piece in pieces
    )
    assert column(first, "y") == [None, None]
    assert column(second, "y") == [None, 1.0]


@each_using
def test_rows_that_do_not_count_are_mapped_and_not_learned(using: str) -> None:
    batch = record(x=[1.0, 100.0, 3.0, 7.0], w=[1.0, 0.0, 1.0, 1.0])
    norm = sbn.Normalizer(weights="w")
    found = column(norm.update_transform(batch, using, by_row=True))
    kept = column(sbn.Normalizer().update_transform(xs(1.0, 3.0, 7.0), using, by_row=True))
    assert [found[i] for i in (0, 2, 3)] == kept
    assert found[1] == 99.0  # by the statistics of the first row
    assert norm.stats()["count"].to_pylist() == [3]


def test_rows_without_a_time_are_mapped_and_not_learned() -> None:
    batch = record(x=[1.0, 100.0, 3.0], t=pa.array([0, None, 30], pa.timestamp("s")))
    norm = sbn.Normalizer(sbn.EMA(halflife="30s", time="t", null_time="skip"))
    assert column(norm.update_transform(batch, "before", by_row=True)) == [None, 99.0, 2.0]
    assert norm.stats()["mean"].to_pylist() == [pytest.approx(7 / 3)]
    nowhere = record(x=[1.0], t=pa.array([None], pa.timestamp("s")))
    before = bits(norm)
    assert len(norm.update_transform(nowhere, by_row=True)) == 1
    assert bits(norm) == before


def test_an_empty_batch_changes_nothing() -> None:
    norm = sbn.Normalizer()
    assert len(norm.update_transform(xs(), by_row=True)) == 0
    assert norm.features == ()


# ---------------------------------------------------------------------- bad input


def refuses(norm: sbn.Normalizer, data: Any, match: str, **how: Any) -> sbn.errors.StreamBNError:
    """Check that data are refused and that the state keeps every bit."""
    before = bits(norm)
    with pytest.raises(sbn.errors.InvalidValueError, match=match) as caught:
        norm.update_transform(data, **{"by_row": True} | how)
    assert bits(norm) == before
    return caught.value


def test_an_average_over_blocks_has_no_statistics_of_rows() -> None:
    error = refuses(sbn.Normalizer(sbn.BatchEMA(momentum=0.1)), xs(1.0), "averages over blocks")
    assert error.argument == "by_row"
    reader = pa.RecordBatchReader.from_batches(xs(1.0).schema, [xs(1.0)])
    refuses(sbn.Normalizer(sbn.BatchEMA(momentum=0.1)), reader, "Omit by_row")


def test_a_batch_by_itself_is_not_by_row() -> None:
    assert refuses(sbn.Normalizer(), xs(1.0), "using='batch'", using="batch").argument == "by_row"
    refuses(sbn.Normalizer(), xs(1.0), "by_row must be True or False, got 'yes'", by_row="yes")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_refused_value_rejects_the_whole_batch(value: float) -> None:
    norm = fit(xs(1.0, 2.0), nan="raise")
    error = refuses(norm, xs(1.0, value, 3.0), "The batch was rejected")
    assert error.column == "x"


def timed(*seconds: float | None) -> pa.RecordBatch:
    ticks = [s if s is None else int(s * 1000) for s in seconds]
    return record(x=[1.0] * len(seconds), t=pa.array(ticks, pa.timestamp("ms")))


def test_times_must_ascend() -> None:
    norm = fit(timed(0, 10), policy=TIMED)
    error = refuses(norm, timed(10, 10, 20, 15.5), "row 3 of the batch has the time "
                    "1970-01-01T00:00:15.5, after a row with 1970-01-01T00:00:20")  # fmt: skip
    assert error.column == "t"
    refuses(norm, timed(9, 12), "row 0 .* after a row with 1970-01-01T00:00:10")
    assert column(norm.update_transform(timed(10, 11), by_row=True)) == [0.0, 0.0]
    skipping = fit(timed(5), policy=sbn.EMA(halflife="30s", time="t", null_time="skip"))
    refuses(skipping, timed(7, None, 6), "row 2 of the batch")
    numbers = sbn.Normalizer(sbn.EMA(halflife=3, time="t"))
    refuses(numbers, record(x=[1.0, 2.0], t=[1.5, 1.25]), "the time 1.25, after a row with 1.5")


def test_times_of_another_kind_are_refused() -> None:
    norm = fit(timed(0, 10), policy=TIMED)
    zoned = record(x=[1.0], t=pa.array([20_000], pa.timestamp("ms", "UTC")))
    before = bits(norm)
    with pytest.raises(sbn.errors.SchemaError, match="UTC timestamps"):
        norm.update_transform(zoned, by_row=True)
    assert bits(norm) == before


def test_decimals_do_not_join_exact_sums_of_floats() -> None:
    norm = fit(xs(0.5), policy=sbn.Exact())
    before = bits(norm)
    with pytest.raises(sbn.errors.SchemaError, match="'x'"):
        norm.update_transform(xs(Decimal("0.1"), kind=pa.decimal128(3, 1)), by_row=True)
    assert bits(norm) == before


def test_results_beyond_float16_are_refused() -> None:
    data = xs(*[1.0, 1.001] * 3, 3e6)
    error = refuses(sbn.Normalizer(), data, "beyond 65,504", using="before", dtype=pa.float16())
    assert error.argument == "dtype"
    out = sbn.Normalizer(clip=10).update_transform(data, "before", dtype=pa.float16(), by_row=True)
    assert column(out)[-1] == 10


def test_a_policy_of_the_users_own_may_lack_it() -> None:
    class Mine(sbn.Welford):
        row_rule = None

    with pytest.raises(sbn.errors.InvalidValueError, match=r"which .* does not keep"):
        sbn.Normalizer(Mine()).update_transform(xs(1.0), by_row=True)
