"""The benchmark of states and engines: it runs on little data, and its tables follow from times."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest
from spark_process import needs_java

ROOT = Path(__file__).parents[2]

if "benchmarks" not in sys.modules:  # by its path, as `streambn` must be the installed one
    spec = importlib.util.spec_from_file_location("benchmarks", ROOT / "benchmarks/__init__.py")
    sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["benchmarks"])
distributed = importlib.import_module("benchmarks.distributed")

TINY = distributed.QUICK._replace(rows=400, far=1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    distributed.write_files(folder, TINY)
    return folder


def run_task(task, folder, cores=2):
    counts = TINY.blocks if task == "ray" else TINY.partitions
    return distributed.run_task(task, cores, folder, TINY.rounds, counts)


@pytest.fixture(scope="module")
def found(folder):
    """Return what the tasks find that need no engine."""
    return {"states 2": run_task("states", folder), "local 1": run_task("local", folder, 1)}


def test_a_report_without_engines_says_what_was_not_measured(found):
    text = distributed.full(found, TINY)
    assert text.count("not measured") == 4
    assert "| streambn " in text
    by_who = [line for line in text.splitlines() if line.startswith(("| exact ", "| streambn "))]
    assert [line.rsplit("|", 2)[1].strip() for line in by_who] == ["16", "16"]


def test_bars_follow_from_times(found):
    times = {"avg and var_pop": [2.0, 2.2, 9.0], "fit_dataset": [1.1], "fit": [11.0]}
    times |= {"transform_sql": [1.0], "expressions by hand": [1.0]}
    judged = distributed.bars(found | {"spark 2": {"seconds": times}})
    by_title = {bar.title.partition(" against")[0]: bar for bar in judged}
    assert by_title["Spark: fit_dataset"].measured == pytest.approx(0.5)
    assert by_title["Spark: fit_dataset"].holds
    assert not by_title["Spark: fit"].holds
    assert by_title["Ray: fit of files"].measured is None
    assert "| MISSED |" in distributed.bound_table(judged)


def test_the_model_adds_reading_tasks_and_fold(found):
    cost = distributed.Cost(speed=1e9, task=0.01, fold=1e-6, state=100.0)
    assert distributed._cores(10e12, 10.0, cost) == 1000
    costs = distributed.Cost.of(found, TINY)
    assert costs.task == 0
    assert costs.speed > 0
    growth = [{"partitions": 10, "seconds": 1.0}, {"partitions": 110, "seconds": 3.0}]
    assert distributed.Cost.of(found | {"spark 2": {"growth": growth}}, TINY).task == 0.04


@pytest.mark.parametrize(
    ("value", "digits"), [(1.0, 16), (1.0000001, 6), (-256.0, 0), (1 + 2**-52, 15)]
)
def test_digits(value, digits):
    assert distributed._digits(value, 1.0) == digits


def test_a_failure_names_the_task(folder):
    with pytest.raises(RuntimeError, match="local on 0 cores failed"):
        run_task("local", folder, 0)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["spark", "ray"])
def test_engines(engine, folder, found):
    if engine == "spark":
        pytest.importorskip("pyspark", reason="needs pyspark: pip install pyspark")
        needs_java()
    else:
        pytest.importorskip("ray", reason="needs ray: pip install 'ray[data]'")
    measured = found | {f"{engine} 2": run_task(engine, folder)}
    text = distributed.full(measured, TINY)
    assert text.count("not measured") == (1 if engine == "spark" else 3)
    assert f"streambn on {engine.title()}" in text
