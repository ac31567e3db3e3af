"""The benchmarks: every peer computes the right result, and the tables follow from the times."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import statistics
import sys
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import streambn as sbn
from streambn.io import Source, open_reader
from streambn.testing import exact_moments

ROOT = Path(__file__).parents[2]


def load(package):
    """Import a package of the checkout by its path, as `streambn` must be the installed one."""
    spec = importlib.util.spec_from_file_location(package, ROOT / package / "__init__.py")
    sys.modules[package] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[package])


load("benchmarks")
NAMES = "bars command filejobs forgetting measure peers references report workloads"
bars, command, filejobs, forgetting, measure, peers, references, report, workloads = (
    importlib.import_module(f"benchmarks.{name}") for name in NAMES.split()
)
WORKLOADS = {w.name: w for w in workloads.WORKLOADS}
FILE_JOBS = {job.name: job for job in filejobs.FILE_JOBS}


def columns_of(batches):
    """Return the values, without nulls, of every column or list element."""
    names = [n for n in batches[0].schema.names if n not in (workloads.TIME, workloads.WEIGHT)]
    for column in pa.Table.from_batches(batches).select(names).columns:
        if pa.types.is_fixed_size_list(column.type):
            yield from np.array(column.to_pylist()).T.tolist()
        else:
            yield [value for value in column.to_pylist() if value is not None]


def weighted_moments(batches, weights=None):
    """Return exact means and variances, shape (2, columns)."""
    moments = []
    for column in columns_of(batches):
        mean, squares = exact_moments(column, weights)
        total = len(column) if weights is None else sum(map(Fraction, weights))
        moments.append([float(mean), float(squares / total)])
    return np.array(moments).T


def ages(batches):
    return np.arange(sum(batch.num_rows for batch in batches))[::-1]


def by_row(batches):
    return weighted_moments(batches, 0.5 ** (ages(batches) / workloads.HALFLIFE))


def halflives(batches):
    times = pa.Table.from_batches(batches)[workloads.TIME].cast(pa.int64()).to_numpy()
    return np.diff(times) / (workloads.HALFLIFE_HOURS * 3600e6)


def by_time(batches):
    return weighted_moments(batches, 0.5 ** np.append(halflives(batches)[::-1].cumsum()[::-1], 0))


def by_time_in_polars(batches):
    """Return the mean by Polars' own definition, in which a row has the rest of the weight."""
    [column] = columns_of(batches)
    mean = column[0]
    for x, gap in zip(column[1:], halflives(batches), strict=True):
        mean += (1 - 0.5**gap) * (x - mean)
    return np.array([[mean], [np.nan]])


def by_weight(batches):
    weights = pa.Table.from_batches(batches)[workloads.WEIGHT].to_pylist()
    return weighted_moments(batches, weights)


def recursive(batches):
    """Return the moments of `y = (1 - ALPHA) * y + ALPHA * x`, which begins at the first value."""
    weights = workloads.ALPHA * (1 - workloads.ALPHA) ** ages(batches)
    weights[0] /= workloads.ALPHA
    return weighted_moments(batches, weights)


def normalized(batches):
    """Return the last batch, normalized by the statistics of the first."""
    [first], [last] = columns_of(batches[:1]), columns_of(batches[-1:])
    mean, std = statistics.mean(map(Fraction, first)), statistics.pstdev(first)
    return np.array([float(x - mean) / std for x in map(Fraction, last)])


EXACT = {
    "ema": by_row,
    "by-row-ema": by_row,
    "ema-time": by_time,
    "weights": by_weight,
    "rows-ema": recursive,
}


def assert_right(peer, task, data, accuracy):
    if peer.module is None:
        pytest.skip(f"{peer.name} is missing: pip install {peer.package}")
    job = peer.tasks[task](data)
    found = job.read(job.run())
    if task == "transform":
        exact = normalized(data.batches)
        assert found.shape == exact.shape
        assert (abs(found - exact) <= accuracy * np.maximum(1, abs(exact))).all()
        return
    moments = EXACT.get(task, weighted_moments)
    if task == "ema-time" and peer.name == "Polars":
        moments = by_time_in_polars
    mean, var = moments(data.batches)
    # Rounding errors add up row by row.
    accuracy = max(accuracy, 1e-12) if task.startswith(("rows", "by-row")) else accuracy
    if task.startswith("by-row"):
        found = np.array([mean, var, found])
    # Polars has no variance by time. The variance of the data bounds the error of its mean.
    std = np.sqrt(np.where(np.isnan(var), workloads.STD**2, var))
    assert (abs(found[0] - mean) <= accuracy * std + np.spacing(abs(found[0]))).all()
    if len(found) > 1:
        assert (abs(found[1] - var) <= accuracy * var).all()
    if len(found) > 2:
        last = (np.array([column[-1] for column in columns_of(data.batches)]) - mean) / std
        # Peers normalize by the float nearest to the mean.
        slack = accuracy + np.spacing(abs(mean)) / std
        assert (abs(found[2] - last) <= slack * np.maximum(1, abs(last))).all()


CELLS = [
    pytest.param(workload, peer, id=f"{workload.name}-{peer.name}")
    for workload in workloads.WORKLOADS
    for peer in peers.PEERS
    if workload.task in peer.tasks
]


@pytest.mark.parametrize(("workload", "peer"), CELLS)
def test_every_peer_computes_the_right_result(workload, peer):
    data = workload.make(workload.quick().shape)
    is_single = data.matrices[0].dtype == np.float32
    accuracy = peer.accuracy.float32 if is_single else peer.accuracy.float64
    assert_right(peer, workload.task, data, accuracy)


@pytest.mark.parametrize(
    ("workload", "peer"),
    [c for c in CELLS if c.values[0].name in ("float64", "ema", "rows", "rows-ema", "frames")],
)
def test_every_peer_is_as_accurate_as_the_table_says_far_from_zero(workload, peer):
    data = workloads.normal(workloads.Shape(1000, 1, 4), mean=1e8, std=1.0)
    assert_right(peer, workload.task, data, peer.accuracy.far)


@pytest.mark.parametrize("name", [n for n in references.REFERENCES if n.startswith("np.")])
def test_limits_read_or_copy_the_values(name):
    shape = workloads.Shape(1000, 3, 4)
    data = workloads.normal(shape)
    job = references.REFERENCES[name](data)
    if "copyto" in name:
        assert (job.read(job.run()) == data.matrices[-1].ravel(order="K")).all()
    elif "add" in name:
        assert job.read(job.run()) == pytest.approx([m[:10, 0].sum() for m in data.matrices])
    else:
        for row, column, batch in np.random.default_rng(0).integers(shape, size=(5, 3)):
            data.matrices[batch][row, column] = 1e6
            job = references.REFERENCES[name](data)
            assert job.read(job.run()).max() == 1e6
            data.matrices[batch][row, column] = 0


@pytest.mark.parametrize("workload", [w for w in workloads.WORKLOADS if w.references])
def test_references_learn_the_same_values(workload):
    data = workload.make(workload.quick().shape)
    columns = np.concatenate(data.matrices)
    for name in workload.references:
        job = references.REFERENCES[name](data)
        mean, var = job.read(job.run())
        values = columns if len(mean) == columns.shape[1] else columns.reshape(-1, 1)
        assert mean == pytest.approx(values.mean(axis=0, dtype=float), rel=1e-12)
        assert var == pytest.approx(values.var(axis=0, dtype=float), rel=1e-12)


def test_jobs_take_turns_and_slow_ones_skip_rounds(monkeypatch):
    calls, cost = [], {"a": 1, "b": 100}

    def timed(run, number):
        for _ in range(number):
            run()
        return number * cost[calls[-1]] / 100

    monkeypatch.setattr(measure, "SAMPLE", 0)
    monkeypatch.setattr(measure, "SLOW", 0.5)
    monkeypatch.setattr(measure.timeit, "timeit", timed)
    samples = measure.take_turns({name: lambda name=name: calls.append(name) for name in cost}, 4)
    assert "".join(calls) == "aab" + "abaaab"  # first to warm up
    assert samples == {"a": (0.01,) * 4, "b": (1.0, None, None, 1.0)}


def test_quick_jobs_repeat_their_pass():
    [[seconds]] = measure.take_turns({"nothing": int}, 1).values()
    assert 0 < seconds < measure.SAMPLE / 10


def compared(name, samples, unit="GB/s", amount=1.0, limits=()):
    samples = {who: tuple(values) for who, values in samples.items()}
    return measure.Comparison(name, name, unit, amount, samples, limits, dict.fromkeys(samples, 9))


def test_ratios_are_taken_within_rounds():
    # The machine is half as fast after the first round.
    found = compared("float64", {"max": [1, 2, 2], "streambn": [2, 4, None]}, limits=("max",))
    assert found.ratio("max", "streambn") == found.of_limit("streambn") == 0.5
    assert found.figure("max") == 0.5


def test_the_fastest_limit_counts():
    samples = {"slow": [3.0], "fast": [1.0], "streambn": [2.0]}
    assert compared("transform", samples, limits=("slow", "fast")).of_limit("streambn") == 0.5
    assert compared("rows", samples).of_limit("streambn") is None


@pytest.mark.parametrize(("unit", "figure"), [("GB/s", 200), ("µs per row", 5e3), ("s", 0.02)])
def test_figures_are_medians_in_their_unit(unit, figure):
    amount = 1 if unit == "s" else 4
    found = compared("work", {"streambn": [0.02, 0.03, 0.01]}, unit, amount)
    assert found.figure("streambn") == pytest.approx(figure)


@pytest.mark.parametrize("bar", bars.BARS, ids=lambda bar: bar.title)
def test_a_bar_holds_at_its_bound_and_not_beyond(bar):
    def verdict(ratio):
        other, own = (ratio, 1.0) if bar.what == "speed" else (1.0, ratio)
        samples = {"streambn": [own], **{name: [other] for name in bar.against}}
        return next(v for v in bars.judge([compared(bar.work, samples)]) if v.bar == bar)

    worse = 0.99 if bar.what == "speed" else 1.01
    assert verdict(bar.bound).holds
    assert verdict(bar.bound).ratio == bar.bound
    assert not verdict(bar.bound * worse).holds


def test_an_unmeasured_bar_is_missed():
    [verdict] = bars.judge([compared("ema-time", {"streambn": [1.0]})])
    assert (verdict.ratio, verdict.holds) == (None, False)


@pytest.mark.parametrize(
    "names",
    [  # each process takes a second
        pytest.param(("fit-snappy", "fit-inside", "normalize-snappy", "show"), id="some jobs"),
        pytest.param(tuple(FILE_JOBS), id="all jobs", marks=pytest.mark.long),
    ],
)
def test_the_command_measures_and_writes_the_documentation(names, tmp_path, capsys, monkeypatch):
    jobs = [FILE_JOBS[name] for name in names]
    monkeypatch.setattr(command, "FILE_JOBS", jobs)
    monkeypatch.setattr(measure, "SAMPLE", 0)
    (tmp_path / "benchmarks").mkdir()
    for readme in ("README.md", "benchmarks/README.md"):
        (tmp_path / readme).write_text(f"before{report.BEGIN}old{report.END}after")
    assert command.main(["--quick"], root=tmp_path) == 0
    printed = capsys.readouterr().out
    root, full = ((tmp_path / name).read_text() for name in ("README.md", "benchmarks/README.md"))
    for text in (root, full):
        assert text.startswith(f"before{report.BEGIN}\n\n")
        assert text.endswith(f"\n\n{report.END}after")
        assert "old" not in text
    assert sum(line.startswith("| ") for line in root.splitlines()) == 1 + 1 + 8
    for each in (*WORKLOADS.values(), *jobs):
        assert f"| {each.title} " in full
        assert f"| {each.title} " in printed
    assert "not measured" not in full
    picture = (tmp_path / "benchmarks/throughput.svg").read_text()
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    for workload in WORKLOADS.values():
        assert (f">{workload.title}<" in picture) == bool(workload.limits)


def test_the_command_refuses_a_readme_without_markers(tmp_path):
    (tmp_path / "README.md").write_text(report.END + report.BEGIN)
    with pytest.raises(ValueError, match=r"README\.md must have"):
        command.main(["--quick"], root=tmp_path)


def script(code, **options):
    return filejobs.Contender((sys.executable, "-c", code, "{folder}"), **options)


@pytest.fixture
def folder(tmp_path):
    filejobs.write_files(tmp_path / "with a space", filejobs.Files(1, 500, columns=1))
    return tmp_path / "with a space"


def test_a_process_is_measured_alone_with_all_cores_and_silent(folder, monkeypatch, capfd):
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")
    ballast = np.ones(30_000_000)  # 240 MB that the process must not count
    code = "import os, time; time.sleep(0.2); print(b'x' * 50_000_000)\n"
    code += "assert 'POLARS_MAX_THREADS' not in os.environ"
    seconds, _, peak = filejobs.run_process(script(code), folder)
    assert 50 < peak < 220
    assert seconds >= 0.2
    assert capfd.readouterr().out == ""
    del ballast


def test_outputs_of_earlier_processes_are_removed(folder):
    write = script("import sys; open(sys.argv[1] + '/out/new', 'x').close()")
    for _ in range(2):
        filejobs.run_process(write, folder)
    assert [path.name for path in (folder / "out").iterdir()] == ["new"]


def test_a_failed_process_is_an_error(folder):
    with pytest.raises(RuntimeError, match="failed: no such luck"):
        filejobs.run_process(script("import sys; sys.exit('no such luck')"), folder)


@pytest.mark.parametrize(
    ("mean", "std", "agrees"),
    [(100 + 1e-8, 15.0, True), (100 + 2e-8, 15.0, False), (100.0, 15 + 2e-8, False)],
)
def test_statistics_of_all_must_agree(mean, std, agrees):
    found = {"streambn": {"x0": (100.0, 15.0)}, "other": {"x0": (mean, std)}}
    error = pytest.raises(RuntimeError, match="x0: other finds")
    with contextlib.nullcontext() if agrees else error:
        filejobs.check_agreement(found)


@pytest.mark.parametrize(
    ("start", "message"), [(5, "became files of"), (0, "x0 is not normalized")]
)
def test_outputs_must_be_normalized(start, message, folder):
    code = (
        "import sys, pyarrow.parquet as pq\n"
        "table = pq.read_table(sys.argv[1] + '/in/part-0.parquet')\n"
        f"pq.write_table(table[{start}:], sys.argv[1] + '/out/part-0.parquet')"
    )
    with pytest.raises(RuntimeError, match=message):
        filejobs.find(script(code), folder)


def test_contenders_without_results_are_measured_but_not_compared(monkeypatch):
    write = "import json, sys; json.dump(dict(x=[%d, 1]), open(sys.argv[1] + '/found.json', 'w'))"
    data = {"data": filejobs.Files(1, 9, columns=1)}
    both = {"streambn": script(write % 0), "library": script("0", finds=False)}
    found = filejobs.measure_file_job(filejobs.FileJob("job", "a job", data, both), 2)
    assert found.samples.keys() == {"streambn", "library"}
    both["library"] = script(write % 1)
    with pytest.raises(RuntimeError, match="x: library finds"):
        filejobs.measure_file_job(filejobs.FileJob("job", "a job", data, both), 2)


def test_a_job_is_prepared_once_in_each_folder():
    append = script("import sys; open(sys.argv[1] + '/runs', 'a').write('once')").command
    check = "import sys; assert open(sys.argv[1] + '/runs').read() == 'once'"
    data = dict.fromkeys(("data", "more"), filejobs.Files(1, 9, columns=1))
    both = {"streambn": script(check), "other": script(check, data="more")}
    job = filejobs.FileJob("job", "a job", data, both, prepare=append, checked=False)
    filejobs.measure_file_job(job, 2)


@pytest.mark.parametrize("job", [j for j in FILE_JOBS.values() if filejobs.COPY in j.contenders])
def test_pyarrow_copies_all(job, tmp_path):
    filejobs.write_files(tmp_path, job.quick().data["data"])
    used = filejobs.run_process(job.contenders[filejobs.COPY], tmp_path)
    assert used.cpu_seconds > 0
    before, after = (sorted((tmp_path / folder).iterdir()) for folder in ("in", "out"))
    assert [path.name for path in before] == [path.name for path in after]
    for one, other in zip(before, after, strict=True):
        tables = [open_reader(Source(str(path))).read_all() for path in (one, other)]
        assert tables[0].equals(tables[1])


@pytest.mark.parametrize("files", [1, 3])
def test_pyarrow_alone_reads_and_encodes_all_columns(files, tmp_path):
    filejobs.write_files(tmp_path, filejobs.Files(files, 500, columns=3))
    for job in ("fit-snappy", "normalize-snappy"):
        filejobs.run_process(FILE_JOBS[job].contenders["pyarrow alone"], tmp_path)
        written = sorted((tmp_path / "out").iterdir())
        assert len(written) == (files if job == "normalize-snappy" else 0)
    for path in written:
        # Each column is a file of its own; random numbers do not compress.
        content = path.read_bytes()
        assert content.count(b"PAR1") == 2 * 3
        assert len(content) > 3 * 500 * 8


def test_missing_contenders_are_left_out():
    both = {"streambn": script("0"), "other": script("0", needs="no_such_module")}
    job = filejobs.FileJob("job", "a job", {}, both, constants={"limit": 0.5}, checked=False)
    found = filejobs.measure_file_job(job, 2)
    assert found.samples.keys() == {"streambn", "limit"}
    assert found.samples["limit"] == (0.5, 0.5)


def test_the_committed_picture_of_forgetting_is_up_to_date():
    picture = forgetting.PICTURE.read_text()
    assert forgetting.picture() == picture
    assert ElementTree.fromstring(picture).tag.endswith("svg")


def test_the_curves_of_forgetting_agree_with_pandas():
    rows = forgetting.weeks()
    co2 = pd.Series(rows["co2"].to_numpy(), index=pd.DatetimeIndex(rows["date"].to_pylist()))

    def by_block(decay, length):
        """Before the first full block there is no mean."""
        blocks = co2.to_numpy()[: len(co2) // length * length].reshape(-1, length).mean(axis=1)
        after = pd.Series(blocks).ewm(alpha=1 - decay).mean().to_numpy()
        full = (np.arange(len(co2)) + 1) // length
        return np.where(full, after[full - 1], np.nan)

    expected = []
    for decay, length, weeks in ((0.84, 13, 52), (0.7, 4, 8)):
        by_row = co2.ewm(halflife=weeks).mean()
        by_time = co2.ewm(halflife=f"{7 * weeks}D", times=co2.index).mean()
        expected += [co2.expanding().mean(), by_block(decay, length), by_row, by_time]
    chosen = [0, 7, *range(10, len(co2), 100), len(co2) - 1]
    curves = [curve for panel in forgetting.PANELS for curve in panel.curves]
    for curve, by_pandas in zip(curves, expected, strict=True):
        assert eval(" ".join(curve.name), vars(sbn).copy()) == curve.policy
        found = forgetting.means(curve.policy, rows, chosen)
        np.testing.assert_allclose(found, np.asarray(by_pandas)[chosen], rtol=1e-12)


def test_the_gap_in_forgetting_is_as_long_as_its_title_says():
    dates = forgetting.weeks()["date"].to_pylist()
    longest = max(after - before for before, after in itertools.pairwise(dates))
    assert longest.days == 7 * (18 + 1)  # "Eighteen weeks without a value"
