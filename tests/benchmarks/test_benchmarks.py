"""The benchmarks: all peers give the right answers, and what is made of the times is right."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import itertools
import json
import statistics
import sys
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streambn as sbn
from streambn import kernels

ROOT = Path(__file__).parents[2]


def load(package):
    """Import a package of the checkout by its place: with the checkout on the path the
    streambn in it would go before the installed one.
    """
    spec = importlib.util.spec_from_file_location(package, ROOT / package / "__init__.py")
    sys.modules[package] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[package])


load("benchmarks")
bars, command, filejobs, forgetting, jobs, measure, peers, plot, references, report, workloads = (
    importlib.import_module(f"benchmarks.{name}")
    for name in (
        "bars",
        "command",
        "filejobs",
        "forgetting",
        "jobs",
        "measure",
        "peers",
        "plot",
        "references",
        "report",
        "workloads",
    )
)
WORKLOADS = {w.name: w for w in workloads.WORKLOADS}
FILE_JOBS = {job.name: job for job in filejobs.FILE_JOBS}


def small(workload):
    shape = workload.shape
    return shape._replace(
        rows=min(shape.rows, 500), columns=min(shape.columns, 5), batches=min(shape.batches, 3)
    )


def few(job):
    """The same job on small files."""
    places = {
        name: files._replace(rows=min(files.rows, 2000), files=min(files.files, 3), columns=3)
        for name, files in job.places.items()
    }
    return dataclasses.replace(job, places=places)


# ------------------------------------------------------- right answers, exactly


def columns_of(batches):
    """Give the values of every column, or element of a list, that are not null."""
    names = [n for n in batches[0].schema.names if n not in (workloads.TIME, workloads.WEIGHT)]
    for column in pa.Table.from_batches(batches).select(names).columns:
        if pa.types.is_fixed_size_list(column.type):
            yield from np.array(column.to_pylist()).T.tolist()
        else:
            yield [value for value in column.to_pylist() if value is not None]


def exact_moments(batches):
    columns = list(columns_of(batches))
    means = [float(statistics.mean(column)) for column in columns]
    return np.array([means, [float(statistics.pvariance(column)) for column in columns]])


def weighted_moments(column, weights):
    weights, values = list(map(Fraction, weights)), list(map(Fraction, column))
    mean = sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)
    squares = sum(w * (x - mean) ** 2 for w, x in zip(weights, values, strict=True))
    return [float(mean), float(squares / sum(weights))]


def exact_ema(batches):
    [column] = columns_of(batches)
    ages = range(len(column) - 1, -1, -1)
    weights = [0.5 ** (age / workloads.HALFLIFE) for age in ages]
    return np.array([weighted_moments(column, weights)]).T


def halflives_between(batches):
    times = pa.Table.from_batches(batches)[workloads.TIME].cast(pa.int64()).to_numpy()
    return np.diff(times) / (workloads.HALFLIFE_HOURS * 3600e6)


def exact_ema_time(batches):
    [column] = columns_of(batches)
    ages = np.append(halflives_between(batches)[::-1].cumsum()[::-1], 0.0)
    return np.array([weighted_moments(column, 0.5**ages)]).T


def recursion_by_time(batches):
    """Polars' own definition: the row before keeps what its age has left of it, x gets the rest."""
    [column] = columns_of(batches)
    mean = column[0]
    for x, halflives in zip(column[1:], halflives_between(batches), strict=True):
        mean += (1 - 0.5**halflives) * (x - mean)
    return np.array([[mean]])


def exact_weighted(batches):
    weights = pa.Table.from_batches(batches)[workloads.WEIGHT].to_pylist()
    return np.array([weighted_moments(column, weights) for column in columns_of(batches)]).T


EXACT = {"ema": exact_ema, "ema-time": exact_ema_time, "weights": exact_weighted}


def exact_recursion(batches):
    """Of every column: what `y = (1 - ALPHA) * y + ALPHA * x` gives, from the first value on."""
    found = []
    for column in columns_of(batches):
        alpha, values = Fraction(workloads.ALPHA), list(map(Fraction, column))
        mean, square = values[0], Fraction(0)
        for x in values[1:]:
            square = (1 - alpha) * (square + alpha * (x - mean) ** 2)
            mean += alpha * (x - mean)
            # Exact fractions grow with every step: these digits are more than enough.
            mean, square = mean.limit_denominator(10**60), square.limit_denominator(10**60)
        found.append([float(mean), float(square)])
    return np.array(found).T


def exact_rows(moments, batches):
    """Moments, and the last row normalized by them."""
    last = [column[-1] for column in columns_of(batches)]
    mean, var = moments(batches)
    return np.stack([mean, var, (last - mean) / np.sqrt(var)])


def exact_transform(batches):
    """Of the last batch, by the statistics of the first."""
    [first], [last] = columns_of(batches[:1]), columns_of(batches[-1:])
    mean, std = statistics.mean(map(Fraction, first)), statistics.pstdev(first)
    return np.array([float(x - mean) / std for x in map(Fraction, last)])


def assert_moments(got, exact, accuracy):
    (mean, var), (exact_mean, exact_var) = got, exact
    # A mean is a float64, or what the data are, and not better than its last digit.
    assert (abs(mean - exact_mean) <= accuracy * np.sqrt(exact_var) + np.spacing(abs(mean))).all()
    assert (abs(var - exact_var) <= accuracy * exact_var).all()


def assert_right(job, task, batches, accuracy):
    got = job.read(job.run())
    if task == "transform":
        exact = exact_transform(batches)
        assert got.shape == exact.shape
        assert (abs(got - exact) <= accuracy * np.maximum(1, abs(exact))).all()
    elif task in ("rows", "rows-ema"):
        exact = exact_rows(exact_recursion if task == "rows-ema" else exact_moments, batches)
        assert got.shape == exact.shape
        # Row by row the rounding of each adds up.
        accuracy = max(accuracy, 1e-12)
        assert_moments(got[:2], exact[:2], accuracy)
        # The float nearest to the mean, by which the exact values are normalized, is not it.
        slack = accuracy + np.spacing(abs(exact[0])) / np.sqrt(exact[1])
        assert (abs(got[2] - exact[2]) <= slack * np.maximum(1, abs(exact[2]))).all()
    else:
        exact = EXACT.get(task, exact_moments)(batches)
        if len(got) == 1:
            # A mean alone, and Polars' by a definition of its own: held to the spread of the data.
            mean = recursion_by_time(batches) if "polars" in job.run.__qualname__ else exact[:1]
            exact = np.concatenate([mean, exact[1:]])
            got = np.concatenate([got, exact[1:]])
        assert got.shape == exact.shape
        assert_moments(got, exact, accuracy)


def job_of(peer, task, data):
    if peer.module is None:
        pytest.skip(f"{peer.name} is missing: pip install {peer.package}")
    return peer.tasks[task](data)


CELLS = [
    pytest.param(workload, peer, id=f"{workload.name}-{peer.name}")
    for workload in workloads.WORKLOADS
    for peer in peers.PEERS
    if workload.task in peer.tasks
]


@pytest.mark.parametrize(("workload", "peer"), CELLS)
def test_every_peer_gives_the_right_answer(workload, peer):
    data = workload.make(small(workload))
    is_single = data.matrices[0].dtype == np.float32
    accuracy = peer.accuracy.float32 if is_single else peer.accuracy.float64
    assert_right(job_of(peer, workload.task, data), workload.task, data.batches, accuracy)


FAR = [
    pytest.param(task, peer, id=f"{task}-{peer.name}")
    for task in ("column", "ema", "rows", "rows-ema", "frames")
    for peer in peers.PEERS
    if task in peer.tasks
]


def test_in_river_both_do_the_same_pipeline():
    data = workloads.normal(workloads.Shape(500, 5, 2))
    (ours, theirs), names = zip(
        *[peer.tasks["pipeline"](data).run() for peer in peers.PEERS if "pipeline" in peer.tasks],
        strict=True,
    )
    assert type(ours) is not type(theirs)
    ours, theirs = (model.weights for model in names)
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    # It has learned what it is to learn: the first two features say it all.
    assert min(ours["x0"], ours["x1"]) > 5 * max(abs(ours[f"x{i}"]) for i in (2, 3, 4))


def test_a_frame_of_river_is_the_batch():
    data = workloads.repeated(workloads.Shape(100, 5, 2))
    [frame, again] = jobs.frames_of(data)
    assert frame.to_dict("list") == again.to_dict("list") == data.batches[0].to_pydict()


@pytest.mark.parametrize(("task", "peer"), FAR)
def test_every_peer_is_as_good_as_it_says_far_from_zero(task, peer):
    data = workloads.normal(workloads.Shape(1000, 1, 4), mean=1e8, std=1.0)
    assert_right(job_of(peer, task, data), task, data.batches, peer.accuracy.far)


# --------------------------------------------------------------- the references


@pytest.mark.parametrize("name", [n for n in references.REFERENCES if n.startswith("np.max")])
def test_limits_of_reading_read_every_value(name):
    shape = workloads.Shape(1000, 3, 4)
    data = workloads.normal(shape)
    where = np.random.default_rng(0).integers(shape, size=(5, 3))
    for row, column, batch in where:
        data.matrices[batch][row, column] = 1e6
        job = references.REFERENCES[name](data)
        assert job.read(job.run()).max() == 1e6
        data.matrices[batch][row, column] = 0


@pytest.mark.parametrize("name", workloads.COPIES)
def test_limits_of_copying_copy(name):
    data = workloads.normal(workloads.Shape(1000, 1, 4))
    job = references.REFERENCES[name](data)
    assert (job.read(job.run()) == data.matrices[-1][:, 0]).all()


def test_the_limit_of_calling_adds_ten_values_for_every_batch():
    data = workloads.repeated(workloads.Shape(10, 10, 4))
    job = references.np_add_reduce(data)
    assert job.read(job.run()) == pytest.approx([data.matrices[0][:, 0].sum()] * 4)


@pytest.mark.parametrize("workload", [w for w in workloads.WORKLOADS if w.beside])
def test_the_easier_work_is_on_the_same_values(workload):
    data = workload.make(small(workload))
    columns = np.concatenate(data.matrices)
    for name in workload.beside:
        job = references.REFERENCES[name](data)
        mean, var = job.read(job.run())
        values = columns if len(mean) == columns.shape[1] else columns.reshape(-1, 1)
        assert mean == pytest.approx(values.mean(axis=0, dtype=float), rel=1e-12)
        assert var == pytest.approx(values.var(axis=0, dtype=float), rel=1e-12)


def test_a_fifth_is_null():
    data = workloads.normal_with_nulls(workloads.Shape(10_000, 1, 2))
    counts = [batch.column(0).null_count for batch in data.batches]
    assert counts[0] != counts[1]
    assert sum(counts) == pytest.approx(20_000 * workloads.NULLS, rel=0.05)


# ----------------------------------------------------------------------- timing


def test_jobs_take_turns_and_slow_ones_miss_some(monkeypatch):
    monkeypatch.setattr(measure, "SAMPLE", 0)
    calls = []
    cost = {"a": 1, "b": 100}

    def timed(run, number):
        for _ in range(number):
            run()
        return number * cost[calls[-1]] / 100

    monkeypatch.setattr(measure.timeit, "timeit", timed)
    monkeypatch.setattr(measure, "SLOW", 0.5)
    todo = {name: lambda name=name: calls.append(name) for name in cost}
    rounds = []
    times = measure.timed(todo, 4, lambda: rounds.append(len(calls)))
    warm_up, timed_calls = calls[:3], calls[3:]
    assert warm_up == ["a", "a", "b"]
    assert "".join(timed_calls) == "abaaab"
    assert len(rounds) == 4
    assert times["a"].seconds == (0.01,) * 4
    assert times["b"].seconds == (1.0, None, None, 1.0)


def test_what_is_quick_is_timed_many_times_over():
    times = measure.timed({"nothing": int}, 2, int)["nothing"]
    assert times.passes > 100
    assert 0 < times.median < measure.SAMPLE / 10


def measured(name, seconds):
    """Make up a workload's times, or a job's: by whom, round by round."""
    timings = {who: measure.Timing(1, tuple(times)) for who, times in seconds.items()}
    if name in FILE_JOBS:
        peaks = {who: 100.0 for who in timings if who in FILE_JOBS[name].contenders}
        return filejobs.FilesMeasured(FILE_JOBS[name], timings, peaks)
    workload = WORKLOADS[name]
    return measure.Measured(workload, 16_000_000, timings)


def test_a_ratio_is_taken_within_rounds():
    # The machine halves its speed after the first round: that is no one's doing.
    found = measured("float64", {"np.max": [1, 2, 2], "streambn": [2, 4, None]})
    assert found.ratio("np.max", "streambn") == 0.5
    assert found.of_limit("streambn") == 0.5
    assert found.figure("np.max") == 16e6 / 2 / 1e9


def test_of_several_limits_the_hardest_counts():
    first, second = workloads.COPIES
    found = measured("transform", {first: [3.0], second: [1.0], "streambn": [2.0]})
    assert found.of_limit("streambn") == 0.5
    [verdict] = bars.judged([found])
    assert verdict.ratio == 0.5
    assert not verdict.holds


def test_time_of_a_batch_and_of_a_row():
    found = measured("10x10", {"streambn": [0.02, 0.03, 0.01]})
    assert found.figure("streambn") == pytest.approx(20)
    found = measured("rows", {"streambn": [0.02, 0.03, 0.01]})
    assert found.figure("streambn") == pytest.approx(10)


def test_what_has_no_limit_is_reported_without(tmp_path):
    found = measured("rows", {"streambn": [0.02], "River": [0.2]})
    assert found.of_limit("streambn") is None
    [line] = [line for line in report.table([found]).splitlines() if "River: learn" in line]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["µs per row", "**10**", "", "100"]
    assert report.as_json([found], [], [], 1)["workloads"]["rows"]["limits"] == ()
    plot.draw(
        [found, measured("float64", {"np.max": [1.0], "streambn": [1.0]})], tmp_path / "t.svg"
    )
    picture = (tmp_path / "t.svg").read_text()
    assert WORKLOADS["float64"].title in picture
    assert WORKLOADS["rows"].title not in picture


# ------------------------------------------------------------------------- bars


@pytest.mark.parametrize("bar", bars.BARS, ids=lambda bar: bar.title)
def test_a_bar_is_cleared_at_its_bound_and_missed_beyond_it(bar):
    def verdict(ratio):
        other, own = (ratio, 1.0) if bar.what == "speed" else (1.0, ratio)
        times = {"streambn": [own], **{name: [other] for name in bar.against}}
        found = bars.judged([measured(bar.workload, times)])
        return next(v for v in found if v.bar == bar)

    worse = 0.99 if bar.what == "speed" else 1.01
    assert verdict(bar.bound).holds
    assert verdict(bar.bound).ratio == bar.bound
    assert verdict(bar.bound / worse).holds
    assert not verdict(bar.bound * worse).holds


@pytest.mark.parametrize("bar", bars.BARS, ids=lambda bar: bar.title)
def test_a_bar_names_what_is_timed(bar):
    if bar.workload in FILE_JOBS:
        job = FILE_JOBS[bar.workload]
        assert {*bar.against} <= {*job.contenders, *(job.constants or {})}
        assert "streambn" in job.contenders
        return
    workload = WORKLOADS[bar.workload]
    able = [peer.name for peer in peers.PEERS if workload.task in peer.tasks]
    assert {*bar.against} <= {*workload.limits, *workload.beside, *able}
    assert "streambn" in able


def test_a_bar_that_cannot_be_measured_is_missed():
    found = bars.judged([measured("ema-time", {"np.max": [1.0], "streambn": [1.0]})])
    assert [(v.ratio, v.holds) for v in found] == [(None, False)]
    assert "not measured | MISSED" in report.verdict_table(found)


# ----------------------------------------------------------------------- report


@pytest.fixture
def threads(monkeypatch):
    """How many threads streambn was told to use, call by call; it is not really told."""
    calls = []
    monkeypatch.setattr(kernels, "set_threads", calls.append)
    return calls


@pytest.fixture
def place(tmp_path, monkeypatch, threads):
    """A checkout of its own, with all workloads at a small size."""
    fewer = tuple(measure.Workload(**{**vars(w), "shape": small(w)}) for w in workloads.WORKLOADS)
    monkeypatch.setattr(command, "WORKLOADS", fewer)
    monkeypatch.setattr(command, "FILE_JOBS", tuple(map(few, filejobs.FILE_JOBS)))
    monkeypatch.setattr(command, "one_thread", lambda: None)
    monkeypatch.setattr(measure, "SAMPLE", 0)
    for name, file in (("README", "README.md"), ("RESULTS", "r.json"), ("PICTURE", "t.svg")):
        monkeypatch.setattr(command, name, tmp_path / file)
    (tmp_path / "README.md").write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    return tmp_path


def test_the_command_writes_what_it_measured(place, capsys):
    status = command.main(["--rounds", "2"])
    found = json.loads((place / "r.json").read_text())
    assert status == (0 if all(bar["holds"] for bar in found["bars"]) else 1)
    assert {bar["name"] for bar in found["bars"]} == {bar.title for bar in bars.BARS}
    assert found["workloads"].keys() == WORKLOADS.keys()
    for name, workload in found["workloads"].items():
        able = {p.name for p in peers.PEERS if WORKLOADS[name].task in p.tasks and p.module}
        assert able <= workload["samples"].keys()
        for sample in workload["samples"].values():
            assert 0 < sample["min"] <= sample["median"] <= sample["max"]
            if WORKLOADS[name].limits:
                assert sample["of_limit"] > 0
            else:
                assert sample["of_limit"] is None
    assert found["kernels"] == kernels.describe()
    assert found["file_jobs"].keys() == FILE_JOBS.keys()
    for name, job in found["file_jobs"].items():
        assert job["samples"].keys() == FILE_JOBS[name].contenders.keys()
        for sample in job["samples"].values():
            assert 0 < sample["min"] <= sample["median"] <= sample["max"]
            assert sample["samples"] == min(2, FILE_JOBS[name].rounds)
            assert 5 < sample["peak_mb"] < 2000

    readme = (place / "README.md").read_text()
    assert readme.startswith(f"before\n{report.BEGIN}\n")
    assert readme.endswith(f"{report.END}\nafter\n")
    assert "old" not in readme
    printed = capsys.readouterr().out
    for workload in WORKLOADS.values():
        assert f"| {workload.title} " in readme
        assert f"| {workload.title} " in printed
        assert (workload.title in (place / "t.svg").read_text()) == bool(workload.limits)
    for job in FILE_JOBS.values():
        assert f"| {job.title} " in readme
        assert f"| {job.title} " in printed
    assert "MISSED" in printed or status == 0


@pytest.mark.parametrize(
    ("arguments", "written"),
    [(["--only", "ema", "transform"], set()), (["--no-readme"], {"r.json", "t.svg"})],
)
def test_what_is_not_asked_for_is_not_written(place, arguments, written, monkeypatch):
    two = tuple(w for w in command.WORKLOADS if w.name in ("ema", "transform"))
    monkeypatch.setattr(command, "WORKLOADS", two)
    monkeypatch.setattr(command, "FILE_JOBS", ())
    before = (place / "README.md").read_text()
    command.main([*arguments, "--rounds", "1"])
    assert {path.name for path in place.iterdir()} == {"README.md", *written}
    assert (place / "README.md").read_text() == before


def test_streambn_has_the_threads_that_a_workload_gives_it(place, threads):
    command.main(["--only", "float64", "two-threads", "--rounds", "1"])
    assert threads == [1, 1, 2, 1]


def test_a_missing_peer_is_left_out_and_said_to_be(place, capsys, monkeypatch):
    without = tuple(p._replace(module=None) if p.name == "Polars" else p for p in peers.PEERS)
    for module in (command, measure, report):
        monkeypatch.setattr(module, "PEERS", without)
    assert command.main(["--only", "ema", "--rounds", "1"]) == 1
    printed = capsys.readouterr().out
    assert "Polars is left out: it is not installed (pip install polars)" in printed
    assert "not measured" in printed


def test_without_river_what_is_done_in_it_is_left_out(place, capsys, monkeypatch):
    def without(peer):
        if peer.name == "River":
            return peer._replace(module=None)
        return peer._replace(tasks={t: job for t, job in peer.tasks.items() if t != "rows"})

    fewer = tuple(map(without, peers.PEERS))
    for module in (command, measure, report):
        monkeypatch.setattr(module, "PEERS", fewer)
    assert command.main(["--only", "rows", "--rounds", "1"]) == 1
    printed = capsys.readouterr().out
    assert "River is left out: it is not installed (pip install river)" in printed
    assert f"{WORKLOADS['rows'].title} is left out" in printed


def test_jobs_on_files_are_measured_by_themselves(place, capsys):
    assert command.main(["--only", "help", "--rounds", "1"]) in (0, 1)
    printed = capsys.readouterr().out
    assert f"| {FILE_JOBS['help'].title} " in printed
    assert not any(w.title in printed for w in WORKLOADS.values())


def test_a_readme_without_a_place_for_the_table_is_left_alone(place):
    (place / "README.md").write_text(f"{report.END} {report.BEGIN}")
    with pytest.raises(ValueError, match=r"README\.md must have"):
        command.main(["--rounds", "1"])
    assert not (place / "r.json").exists()


def test_the_same_times_make_the_same_picture(tmp_path):
    seconds = {peer.name: [1.0 + i] for i, peer in enumerate(peers.PEERS)}
    found = [measured("float64", {"np.max": [0.5], **seconds})]
    for name in ("a.svg", "b.svg"):
        plot.draw(found, tmp_path / name)
    pictures = [(tmp_path / name).read_text() for name in ("a.svg", "b.svg")]
    assert pictures[0] == pictures[1]
    assert all(peer.name in pictures[0] for peer in peers.PEERS)


# ---------------------------------------------------------------- jobs on files


@pytest.fixture
def data(tmp_path):
    """A place with two small files."""
    place = tmp_path / "place with a space"
    filejobs.write_files(place, filejobs.Files(2, 500, 3))
    return place


def script(code, **others):
    return filejobs.Contender((sys.executable, "-c", code, "{place}"), **others)


@pytest.mark.parametrize("rows", [500, 2_500])
def test_files_have_the_rows_asked_for(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(filejobs, "GROUP", 1000)
    filejobs.write_files(tmp_path, filejobs.Files(2, rows, 3))
    for path in (tmp_path / "in").iterdir():
        metadata = pq.read_metadata(path)
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        assert (sum(groups), max(groups), metadata.num_columns) == (rows, min(rows, 1000), 3)


def test_a_process_is_watched_and_no_other(data):
    """Neither its memory nor its threads are those of whoever started it."""
    ballast = np.ones(30_000_000)  # 240 MB
    run = filejobs.process(script("import time; time.sleep(0.2); b'x' * 50_000_000"), data)
    assert 50 < run.peak < 200
    assert run.seconds >= 0.2
    del ballast


def test_a_process_has_all_cores_and_its_output_goes_nowhere(data, monkeypatch, capfd):
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")
    filejobs.process(
        script("import os, sys; print('hello'); assert 'POLARS_MAX_THREADS' not in os.environ"),
        data,
    )
    assert capfd.readouterr().out == ""


def test_what_an_earlier_run_wrote_is_gone(data):
    write = script("import sys; open(sys.argv[1] + '/out/new', 'x').close()")
    for _ in range(2):
        filejobs.process(write, data)
    assert [path.name for path in (data / "out").iterdir()] == ["new"]


def test_a_process_that_fails_is_told_with_what_it_said(data):
    with pytest.raises(RuntimeError, match="failed: no such luck"):
        filejobs.process(script("import sys; sys.exit('no such luck')"), data)


def finding(mean, std):
    code = "import sys; open(sys.argv[1] + '/found.json', 'w').write"
    return script(f"""{code}('{{{{"x0": [{mean}, {std}]}}}}')""")


@pytest.mark.parametrize(
    ("mean", "std", "agrees"),
    [(100 + 1e-8, 15.0, True), (100 + 2e-8, 15.0, False), (100.0, 15 + 2e-8, False)],
)
def test_statistics_have_to_agree(mean, std, agrees):
    both = {"streambn": finding(100.0, 15.0), "other": finding(mean, std)}
    job = filejobs.FileJob("job", "a job", {"data": filejobs.Files(1, 10, 1)}, both)
    if agrees:
        filejobs.measured_files(job, 1)
    else:
        with pytest.raises(RuntimeError, match="x0: other finds"):
            filejobs.measured_files(job, 1)


@pytest.mark.parametrize("what", ["as it was", "half"])
def test_what_is_written_has_to_be_normalized(what):
    start = 5 if what == "half" else 0
    code = (
        "import sys, pyarrow.parquet as pq\n"
        "table = pq.read_table(sys.argv[1] + '/in/part-0.parquet')\n"
        f"pq.write_table(table[{start}:], sys.argv[1] + '/out/part-0.parquet')"
    )
    job = filejobs.FileJob(
        "job", "a job", {"data": filejobs.Files(1, 10, 1)}, {"streambn": script(code)}
    )
    match = "became files of" if what == "half" else "x0 is not normalized"
    with pytest.raises(RuntimeError, match=match):
        filejobs.measured_files(job, 1)


def test_who_is_not_installed_is_left_out_of_a_job():
    both = {"streambn": script("0"), "other": script("0", needs="no_such_module")}
    job = filejobs.FileJob("fit-file", "a job", {}, both, constants={"limit": 0.5})
    found = filejobs.measured_files(job, 2)
    assert found.timings.keys() == {"streambn", "limit"}
    assert found.timings["limit"].seconds == (0.5, 0.5)
    verdicts = bars.judged([found])
    assert {(v.ratio, v.holds) for v in verdicts} == {(None, False)}


# ------------------------------------------------------------------- forgetting


def test_the_picture_of_forgetting_is_the_one_that_is_committed():
    """Whatever the kernels: where they differ it is far below a tenth of a pixel."""
    assert forgetting.picture() == forgetting.PICTURE.read_text()


def test_its_curves_are_what_pandas_says():
    rows = forgetting.weeks()
    co2 = pd.Series(rows["co2"].to_numpy(), index=pd.DatetimeIndex(rows["date"].to_pylist()))

    def by_block(decay, length):
        """Before a first full block there is no mean."""
        blocks = co2.to_numpy()[: len(co2) // length * length].reshape(-1, length).mean(axis=1)
        after = pd.Series(blocks).ewm(alpha=1 - decay).mean().to_numpy()
        full = (np.arange(len(co2)) + 1) // length
        return np.where(full, after[full - 1], np.nan)

    year, weeks = (panel.curves for panel in forgetting.PANELS)
    expected = (
        (year, lambda: co2.expanding().mean()),
        (year, lambda: by_block(0.84, 13)),
        (year, lambda: co2.ewm(halflife=52).mean()),
        (year, lambda: co2.ewm(halflife="364D", times=co2.index).mean()),
        (weeks, lambda: co2.expanding().mean()),
        (weeks, lambda: by_block(0.7, 4)),
        (weeks, lambda: co2.ewm(halflife=8).mean()),
        (weeks, lambda: co2.ewm(halflife="56D", times=co2.index).mean()),
    )
    chosen = [0, 7, *range(10, len(co2), 100), len(co2) - 1]
    for i, (curves, by_pandas) in enumerate(expected):
        found = forgetting.means(curves[i % 4].policy, rows, chosen)
        np.testing.assert_allclose(found, np.asarray(by_pandas())[chosen], rtol=1e-12)


def test_the_picture_names_its_policies_and_shows_the_gap_it_speaks_of():
    for panel in forgetting.PANELS:
        for curve in panel.curves:
            named = eval(" ".join(curve.name), vars(sbn).copy())
            assert named == curve.policy
    dates = forgetting.weeks()["date"].to_pylist()
    longest = max(after - before for before, after in itertools.pairwise(dates))
    assert longest.days == 7 * (18 + 1)  # "Eighteen weeks without a value"
    assert ElementTree.fromstring(forgetting.PICTURE.read_text()).tag.endswith("svg")
