"""What streambn and an engine's own functions do on Spark and Ray: run by `benchmarks.distributed`.

    python -P engines.py TASK CORES FOLDER ROUNDS PARTITIONS ...

An engine cannot be stopped and started again at another size without traces, so each task is a
process of its own. It prints JSON. FOLDER has a folder of Parquet files for each task.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

import streambn as sbn

FEATURES = 100
Found = dict[str, Any]


def states(cores: int, folder: Path, rounds: int, partitions: list[int]) -> Found:
    """Write, read and fold states of `FEATURES` features."""
    del cores, folder
    out: Found = {}
    for policy in (sbn.Welford(), sbn.Exact()):
        written = [_learned(policy, seed).to_bytes() for seed in range(64)]
        norm = _learned(policy, 0)
        times = _turns(
            {
                "write": partial(_each, lambda norm: norm.to_bytes(), [norm] * len(written)),
                "read": partial(_each, sbn.from_bytes, written),
            },
            rounds,
        )
        fold = []
        for count in partitions:
            sent = [bytes(bytearray(written[i % len(written)])) for i in range(count)]
            _peak()
            seconds = statistics.median(_turns({"fold": partial(_fold, sent)}, rounds)["fold"])
            fold.append({"partitions": count, "seconds": seconds, "megabytes": _peak()})
        out[repr(policy)] = {
            "bytes": len(written[0]),
            "write": statistics.median(times["write"]) / len(written),
            "read": statistics.median(times["read"]) / len(written),
            "fold": fold,
        }
    return out


def _each(function: Callable[[Any], object], values: list[Any]) -> None:
    for value in values:
        function(value)


def _fold(states: list[bytes]) -> sbn.Normalizer:
    normalizers: Any = map(sbn.from_bytes, states)
    return sbn.merge(normalizers)


def _learned(policy: Any, seed: int) -> sbn.Normalizer:
    values = np.random.default_rng(seed).normal(1e3, 1, (FEATURES, 100))
    return sbn.Normalizer(policy).update(pa.table([*values], [f"x{i}" for i in range(FEATURES)]))


def local(cores: int, folder: Path, rounds: int, partitions: list[int]) -> Found:
    """Fit the files in one process on some threads."""
    del partitions
    os.environ["STREAMBN_THREADS"] = str(cores)
    main: Any = importlib.import_module("streambn.cli.main")
    stats = folder / "stats.json"

    def fit() -> None:
        stats.unlink(missing_ok=True)
        code = main.run(["fit", str(folder / "bars"), "-o", str(stats), "-q"])
        if code:
            raise RuntimeError(f"streambn fit failed with exit code {code}")

    far = sbn.Normalizer().update(ds.dataset(folder / "far"))
    return {"seconds": _turns({"fit": fit}, rounds), "digits": {"streambn": _variance(far)}}


def spark(cores: int, folder: Path, rounds: int, partitions: list[int]) -> Found:
    """Compare with Spark's own aggregates and expressions, then fit ever smaller partitions."""
    sql: Any = importlib.import_module("pyspark.sql")
    f: Any = importlib.import_module("pyspark.sql.functions")
    adapter: Any = importlib.import_module("streambn.adapters.spark")
    settings = {
        "ui.enabled": "false",
        "log.level": "OFF",
        "driver.memory": "2g",
        "sql.files.openCostInBytes": "1",
    }
    builder = sql.SparkSession.builder.master(f"local[{cores}]")
    for name, value in settings.items():
        builder = builder.config(f"spark.{name}", value)
    session = builder.getOrCreate()
    out: Found = {"growth": []}
    if cores == 2:
        wide = session.read.parquet(str(folder / "bars"))
        names = wide.columns
        own = [g(name) for name in names for g in (f.avg, f.var_pop)]
        frozen = sbn.Normalizer().update(ds.dataset(folder / "bars")).freeze()
        stats = {row["column"]: row for row in frozen.stats().to_pylist()}
        by_hand = [((f.col(n) - stats[n]["mean"]) / stats[n]["std"]).alias(n) for n in names]
        out["seconds"] = _turns(
            {
                "avg and var_pop": lambda: wide.agg(*own).collect(),
                "fit_dataset": lambda: adapter.fit_dataset(
                    session, str(folder / "bars"), sbn.Normalizer()
                ),
                "fit": lambda: adapter.fit(wide, sbn.Normalizer()),
                "expressions by hand": lambda: _run(wide.select(*by_hand)),
                "transform_sql": lambda: _run(adapter.transform_sql(wide, frozen)),
                "transform": lambda: _run(adapter.transform(wide, frozen)),
            },
            rounds,
        )
        far = session.read.parquet(str(folder / "far"))
        out["digits"] = {
            "Spark's var_pop": far.agg(f.var_pop("x")).first()[0],
            "streambn on Spark": _variance(adapter.fit(far, sbn.Normalizer())),
        }
    for count in partitions:
        session.conf.set("spark.sql.files.minPartitionNum", str(count))
        narrow = session.read.parquet(str(folder / "growth"))
        found = narrow.rdd.getNumPartitions()
        out["growth"].append(
            _grown(found, partial(adapter.fit, narrow, sbn.Normalizer(sbn.Exact())))
        )
    session.stop()
    return out


def ray(cores: int, folder: Path, rounds: int, partitions: list[int]) -> Found:
    """Compare with the scaler of Ray, then fit ever smaller blocks."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray: Any = importlib.import_module("ray")
    data: Any = importlib.import_module("ray.data")
    adapter: Any = importlib.import_module("streambn.adapters.ray")
    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=4 << 30,
    )
    data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    out: Found = {"growth": []}
    if cores == 2:
        four = [f"x{i}" for i in range(4)]
        files = data.read_parquet(str(folder / "bars"), columns=four)
        blocks = files.materialize()
        scaler = importlib.import_module("ray.data.preprocessors").StandardScaler
        # Not in turns. The last task of the scaler needs a worker of its own kind, and on two cores
        # Ray then ends the others and starts them again, which takes both some seconds.
        out["seconds"] = {}
        for where, dataset in (("files", files), ("blocks", blocks)):
            jobs = {
                f"StandardScaler, {where}": partial(_scale, scaler, four, dataset),
                f"fit, {where}": partial(adapter.fit, dataset, sbn.Normalizer()),
            }
            for _ in range(2):
                for name, job in jobs.items():
                    samples = _turns({name: job}, rounds)[name]
                    out["seconds"].setdefault(name, []).extend(samples)
        far = data.read_parquet(str(folder / "far"))
        out["digits"] = {
            "Ray's StandardScaler": scaler(["x"]).fit(far).stats_["std(x)"] ** 2,
            "streambn on Ray": _variance(adapter.fit(far, sbn.Normalizer())),
        }
    rows = ds.dataset(folder / "growth").count_rows()
    for count in partitions:
        # Tasks make the rows: blocks of files may be joined, and others would fill the driver.
        made = data.range(rows, override_num_blocks=count).map_batches(_made, batch_size=None)
        out["growth"].append(_grown(count, partial(adapter.fit, made, sbn.Normalizer(sbn.Exact()))))
    ray.shutdown()
    return out


def _made(batch: dict[str, Any]) -> dict[str, Any]:
    return {f"x{i}": np.sin(batch["id"] * (i + 1.0)) for i in range(8)}


def _scale(scaler: Any, columns: list[str], dataset: Any) -> None:
    scaler(columns).fit(dataset)


def _run(df: Any) -> None:
    df.write.format("noop").mode("overwrite").save()


def _turns(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time some functions in turn, after a first run of each."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            taken = _seconds(job)
            if number:
                seconds[name].append(taken)
    return seconds


def _seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _grown(partitions: int, fit: Callable[[], sbn.Normalizer]) -> Found:
    """Fit, and return the time and what the driver needs."""
    _peak()
    learned: list[sbn.Normalizer] = []
    seconds = _seconds(lambda: learned.append(fit()))
    return {
        "partitions": partitions,
        "seconds": seconds,
        "megabytes": _peak(),
        "state": len(learned[0].to_bytes()),
        "fingerprint": learned[0].freeze().fingerprint,
    }


def _peak() -> float:
    """Return the most memory that this process has held since the last call, in MB.

    The counter that `resource` reads begins with the memory of the parent.
    """
    status = Path("/proc/self/status").read_text()
    [kilobytes] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    Path("/proc/self/clear_refs").write_text("5")
    return int(kilobytes) * 1024 / 1e6


def _variance(normalizer: sbn.Normalizer) -> float:
    variance: float = normalizer.stats()["var"][0].as_py()
    return variance


TASKS: Mapping[str, Callable[[int, Path, int, list[int]], Found]] = {
    "states": states,
    "local": local,
    "spark": spark,
    "ray": ray,
}

if __name__ == "__main__":
    task, cores, folder, rounds, *partitions = sys.argv[1:]
    found = TASKS[task](int(cores), Path(folder), int(rounds), [int(n) for n in partitions])
    print(json.dumps(found))
