"""The frozen normalizer: immutable, comparable, with a fingerprint."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from normalizers import bits, column, fit, policies, record, xs

import streambn as sbn
from streambn import snapshot
from streambn.kernels import ExactSums, MomentArrays


@policies
def test_frozen_normalizer_never_changes(policy: Any) -> None:
    norm = fit(xs(1.0, 2.0, 6.0), policy=policy)
    frozen = norm.freeze()
    probe = xs(1.0, 4.0, None)
    before, stats, fingerprint = column(frozen.transform(probe)), frozen.stats(), frozen.fingerprint
    assert before == column(norm.transform(probe))
    norm.update(xs(100.0, 200.0, 300.0))
    thawed = frozen.thaw().update(xs(-5.0, -6.0, -9.0))
    assert column(frozen.transform(probe)) == before
    assert frozen.stats().equals(stats)
    assert frozen.fingerprint == fingerprint
    assert column(norm.transform(probe)) != before
    assert column(thawed.transform(probe)) != before
    assert bits(frozen.thaw()) == bits(fit(xs(1.0, 2.0, 6.0), policy=policy))


def test_frozen_normalizer_has_no_way_to_learn() -> None:
    frozen = fit(xs(1.0, 3.0), affine={"x": (2.0, 0.0)}).freeze()
    for name in ("update", "update_transform", "merge"):
        assert not hasattr(frozen, name)
    before = column(frozen.transform(xs(1.0))), frozen.fingerprint
    for name in ("options", "policy", "features", "fingerprint", "_statistics", "anything"):
        with pytest.raises(AttributeError, match=f"cannot set '{name}'"):
            setattr(frozen, name, 1)
        with pytest.raises(AttributeError, match=f"cannot delete '{name}'"):
            delattr(frozen, name)
    with pytest.raises((TypeError, AttributeError)):
        frozen.options.affine["x"] = (9.0, 9.0)  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        frozen.options.eps = 9.0
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
        frozen._statistics.state = None  # type: ignore[misc]
    assert (column(frozen.transform(xs(1.0))), frozen.fingerprint) == before
    with pytest.raises(sbn.InvalidValueError, match=r"freeze\(\)"):
        sbn.FrozenNormalizer()


def arrays_of(state: Any) -> Iterator[np.ndarray]:
    if isinstance(state, MomentArrays):
        yield from (state.memory, *state)
    elif isinstance(state, ExactSums):
        yield from (state.memory, state.count, state.max, state.total, state.squares)
    elif isinstance(state, tuple):
        for part in state:
            yield from arrays_of(part)


@policies
def testarrays_of_of_a_state_are_read_only(policy: Any) -> None:
    norm = fit(xs(1.0, 3.0), policy=policy)
    loaded = sbn.Normalizer.from_statistics(snapshot.decode(bits(norm)).statistics)
    for one in (norm, copy.deepcopy(norm), pickle.loads(pickle.dumps(norm)), loaded):
        arrays = [*arrays_of(one._statistics.state)]
        assert arrays
        assert not any(array.flags.writeable for array in arrays)


def test_freezing_a_frozen_normalizer_returns_it(tmp_path: Path) -> None:
    norm = fit(xs(1.0, 3.0))
    frozen = norm.freeze()
    assert frozen.freeze() is frozen
    for name, one in (("live.json", norm), ("frozen.json", frozen)):
        one.save(tmp_path / name)
        assert sbn.load(tmp_path / name).freeze() == frozen


def test_equality_hash_and_fingerprint() -> None:
    one, same = fit(xs(1.0), xs(3.0)).freeze(), fit(xs(1.0), xs(3.0)).freeze()
    assert one == same
    assert hash(one) == hash(same)
    assert one.fingerprint == same.fingerprint
    assert len(one.fingerprint) == 64
    assert int(one.fingerprint, 16)
    assert {one: "cached"}[same] == "cached"
    assert one != "something else"
    options = {"eps": 1e-5, "ddof": 1, "clip": 3.0, "affine": {"x": (1.0, 1.0)}, "nan": "raise"}
    options["policy"] = sbn.EMA(alpha=0.5)
    others = [
        *(fit(xs(1.0), xs(3.0), **{name: option}) for name, option in options.items()),
        fit(xs(1.0), xs(math.nextafter(3.0, 4.0))),
        fit(xs(1.0), xs(3.0), xs(None)),
        fit(record(y=[1.0]), record(y=[3.0])),
    ]
    prints = [norm.freeze().fingerprint for norm in others]
    assert len({one.fingerprint, *prints}) == 1 + len(others)
    assert all(norm.freeze() != one for norm in others)


def test_output_metadata_carries_the_fingerprint() -> None:
    frozen = fit(xs(1.0, 3.0)).freeze()
    metadata = {"source": "sensor", "streambn.fingerprint": "old"}
    schema = pa.schema([pa.field("x", pa.float64())], metadata)
    batch = record(x=[1.0], schema=schema)
    wanted = {b"source": b"sensor", b"streambn.fingerprint": frozen.fingerprint.encode()}
    assert frozen.transform(batch).schema.metadata == wanted
    table = pa.Table.from_batches([batch])
    assert frozen.transform(table).schema.metadata == wanted
    assert frozen.transform(table.to_reader()).schema.metadata == wanted
    assert fit(batch).transform(xs(1.0)).schema.metadata is None


def test_output_of_other_statistics_drops_the_fingerprint() -> None:
    key = b"streambn.fingerprint"
    frozen = fit(xs(1.0, 3.0)).freeze()
    labelled = frozen.transform(xs(2.0))
    assert labelled.schema.metadata == {key: frozen.fingerprint.encode()}
    assert not frozen.inverse_transform(labelled).schema.metadata
    live = fit(xs(5.0, 9.0))
    assert not live.transform(labelled).schema.metadata
    other = labelled.replace_schema_metadata({b"k": b"v", key: b"stale"})
    assert live.transform(other).schema.metadata == {b"k": b"v"}


class CustomPolicy(sbn.Welford):
    """A policy of a user, which cannot be saved."""

    __slots__ = ()

    def describe(self) -> str:
        return "<half>"


def test_custom_policy_works_frozen() -> None:
    norm = fit(xs(1.0, 3.0), policy=CustomPolicy())
    assert column(norm.transform(xs(3.0))) == [1.0]
    frozen = norm.freeze()
    assert column(frozen.transform(xs(3.0))) == [1.0]
    assert column(frozen.thaw().update(xs(2.0)).transform(xs(2.0))) == [0.0]
    assert "CustomPolicy" in repr(frozen)
    assert "&lt;half&gt;" in frozen._repr_html_()
