"""Jobs that are killed, whose inputs are damaged or change, or whose disk is full.

Tests draw the points of failure from a fixed seed. `Server.faults` is their number per job, which
`pytest --long` increases. Each file is damaged in ten times as many ways.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import COMMAND, ENV, TIMEOUT
from data_files import some_table, write_as

import streambn as sbn
from streambn.parquet import metadata as footers

SERVER = Path(__file__).with_name("fault_server.py")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")


class Server:
    """Runs the command in forked children; see `fault_server`.

    They work in the folder `work`. It begins as a copy of `data`, which has small files of every
    format, and statistics.
    """

    def __init__(self, folder: Path, faults: int) -> None:
        self.faults = faults
        self.data, self.work = folder / "given", folder / "work"
        for seed, name in enumerate(NAMES):
            write(self.data / "data" / name, some_table(seed=seed))
        sbn.Normalizer().update(some_table()).save(self.data / "given.json")
        self._folder = folder
        environment = {**ENV, "OPENBLAS_NUM_THREADS": "1"}  # a process that forks has no threads
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, SERVER], env=environment, **pipes)

    def ask(self, do: str, args: list[object], **request: Any) -> dict[str, Any]:
        """Return the answer of a child; its "status" is negative if a signal ended it."""
        files = {name: str(self._folder / name) for name in ("answer", "stdout", "stderr")}
        request |= {"do": do, "args": [str(a) for a in args], "cwd": str(self.work), **files}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        answer = json.loads(Path(files["answer"]).read_text() or "{}")
        for name in ("stdout", "stderr"):
            answer[name] = Path(files[name]).read_text()
        return {"code": None, **answer, "status": status}

    def succeed(self, args: list[object], **request: Any) -> dict[str, Any]:
        done = self.ask("run", args, **request)
        assert (done["status"], done["code"]) == (0, 0), done
        return done

    def start_again(self) -> None:
        """Copy the data; the files keep their times, so they count as unchanged."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.data, self.work)

    def restore_inputs(self) -> None:
        shutil.copytree(self.data, self.work, dirs_exist_ok=True)

    def contents(self) -> dict[str, bytes]:
        return contents(self.work)

    def undisturbed(self, args: list[object], **request: Any) -> tuple[int, dict[str, bytes]]:
        """Run a job without a failure; return the number of its points, and the files after it."""
        self.start_again()
        done = self.succeed(args, **request)
        assert done["stderr"] == ""
        return done["points"], self.contents()

    def failures(self, args: list[object], rng: random.Random) -> Iterator[tuple[int, Any]]:
        """Start a job again and again; give each time a point to fail at, and the result."""
        total, expected = self.undisturbed(args)
        for at in points(self.faults, total, rng):
            self.start_again()
            yield at, expected

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(TIMEOUT)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory, long: bool) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"), faults=15 if long else 3)
    yield started
    started.close()


@pytest.fixture
def server(one_server: Server) -> Server:
    one_server.start_again()
    return one_server


def one_line(said: str) -> str:
    """Return the only line on stderr, which must not be the text of a Python exception."""
    assert len(said.splitlines()) == 1, said
    assert said.startswith("streambn: "), said
    word = said.split()[1]
    assert not word.endswith(("Error:", "Exception:", "Interrupt:", "Iteration:")), said
    return said


def last_line(said: str) -> str:
    """Return the only line on stderr besides one about the checkpoint."""
    first, _, rest = said.partition("\n")
    return one_line(rest if first.startswith("streambn: no checkpoint at ") else said)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files in a folder, hidden ones included.

    A manifest is reduced to what runs have in common: without order, times of outputs and lines
    that later ones replace.
    """
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".manifest":
                lines = [json.loads(line.partition(b" ")[2]) for line in content.splitlines()]
                for line in lines[1:]:
                    line["stamp"] = line["stamp"][0]
                last = {line.get("output", ""): line for line in lines}
                content = json.dumps(last, sort_keys=True).encode()
            found[str(path.relative_to(folder))] = content
    return found


def write(path: Path, table: pa.Table) -> Path:
    """Write in the format of the suffix, in row groups or batches of 250 rows."""
    checksums = {"write_page_checksum": True} if path.suffix == ".parquet" else {}
    return write_as(path, table, 250, **checksums)


NAMES = ("y=1/a.parquet", "y=1/b.csv", "y=2/c.arrow", "y=2/d.arrows", "y=3/e.csv.gz")


OFTEN = ["--checkpoint-every", 1, "-q"]
JOBS: dict[str, list[object]] = {
    "fit": ["fit", "data", "-o", "stats.json", *OFTEN],
    "fit ema": ["fit", "data", "-o", "stats.json", "--policy", "ema", "--halflife", 100, *OFTEN],
    "fit batch-ema": [
        *("fit", "data", "-o", "stats.json", "--policy", "batch-ema"),
        *("--momentum", 0.1, "--columns", "x", *OFTEN),
    ],
    "normalize": ["normalize", "data", "-o", "out/", "--save", "stats.json", *OFTEN],
    "normalize into one": ["normalize", "data", "-o", "out.parquet", *OFTEN],
    "apply": ["apply", "given.json", "data", "-o", "out/", "-q"],
}


def points(count: int, total: int, rng: random.Random) -> list[int]:
    """Draw points that are spread over a run."""
    return [1 + int((i + rng.random()) * total / count) for i in range(count)]


# --- killed -------------------------------------------------------------------------------


@pytest.mark.parametrize("job", JOBS)
def test_killed_job_resumes_to_the_same_bytes(job: str, server: Server) -> None:
    rng = random.Random(job)
    args = JOBS[job]
    total, expected = server.undisturbed(args)
    assert not [name for name in expected if name.endswith((".tmp", ".checkpoint"))]
    for number, at in enumerate(points(server.faults, total, rng)):
        server.start_again()
        threads = ["--threads", rng.choice([1, 2, 3])]
        killed = server.ask("run", [*args, *threads], at=at)
        # With other threads, or in another order, a run may have fewer points.
        assert killed["status"] == -signal.SIGKILL or killed["code"] == 0, killed
        for _ in range(number % 3):  # killed again while it resumes
            again = rng.randint(1, total)
            killed = server.ask("run", [*args, "--resume"], at=again)
            assert killed["status"] == -signal.SIGKILL or killed["code"] == 0, killed
        last = server.succeed([*args, *threads, "--resume"])
        assert last["stderr"] == ""
        found = server.contents()
        assert sorted(found) == sorted(expected), (job, at, number)
        assert found == expected, (job, at, number)


# --- interrupted---------------------------------------------------------------------------


@pytest.mark.parametrize("job", JOBS)
def test_interrupted_job_is_quiet_and_resumes_to_the_same_bytes(job: str, server: Server) -> None:
    rng = random.Random(job)
    args = JOBS[job]
    for at, expected in server.failures(args, rng):
        number = rng.choice([signal.SIGTERM, signal.SIGINT])
        threads = ["--threads", rng.choice([1, 2, 3])]
        stopped = server.ask("run", [*args, *threads], at=at, act=["signal", number])
        # At the last points the job may be complete.
        assert stopped["status"] == 0, stopped
        assert stopped["code"] in (128 + number, 0), stopped
        assert len(stopped["stderr"].splitlines()) <= 1, stopped
        assert "Traceback" not in stopped["stderr"]
        assert not [name for name in server.contents() if name.endswith(".tmp")], at
        for checkpoint in server.work.rglob("*.checkpoint"):
            assert sbn.load(checkpoint).stats()["count"].to_pylist()[0] > 0
        server.succeed([*args, "--resume"])
        assert server.contents() == expected, (job, at)


# --- damaged ------------------------------------------------------------------------------


def cases(size: int, faults: int, rng: random.Random) -> list[tuple[int, int | None, int]]:
    """Return ways to damage a file: none, cut off at a byte, a bit flipped."""
    number = 10 * faults
    cut = [(rng.randrange(size), None, 0) for _ in range(number // 3)]
    flipped = [(size, rng.randrange(size), 1 << rng.randrange(8)) for _ in range(number)]
    return [(size, None, 0), *cut, *flipped]


def damaged(
    server: Server, args: list[object], file: str, out: str, **request: Any
) -> list[dict[str, Any]]:
    """Run a command over damaged forms of a file; each failure must be one line.

    Returns the runs that succeeded with another result than that of the undamaged file.
    """
    rng = random.Random(f"{args} {file}")
    drawn = cases((server.work / file).stat().st_size, server.faults, rng)
    done = server.ask("damage", args, file=file, out=out, cases=drawn, **request)
    assert done["status"] == 0, (done["stdout"].splitlines()[-1], done["stderr"])
    assert done["code"] == 0, done
    assert done["stderr"] == ""
    whole, *spoilt = done["answers"]
    assert (whole["code"], whole["said"]) == (0, ""), whole
    assert len(spoilt) == len(drawn) - 1
    for answer in spoilt:
        if answer["code"]:
            assert answer["code"] in (1, 3, 5), answer
            one_line(answer["said"])
    return [a for a in spoilt if a["code"] == 0 and a["out"] != whole["out"]]


def test_damaged_checkpoint_is_refused(server: Server) -> None:
    folder = server.work
    stopped = server.ask("run", JOBS["fit"], only="reach", at=12)
    assert stopped["status"] == -signal.SIGKILL
    args = [*JOBS["fit"], "--resume"]
    (checkpoint,) = folder.rglob("*.checkpoint")
    drawn = cases(checkpoint.stat().st_size, server.faults, random.Random(0))
    name = str(checkpoint.relative_to(folder))
    done = server.ask("damage", args, file=name, out="stats.json", cases=drawn)
    whole, *spoilt = done["answers"]
    assert whole["code"] == 0
    for answer in spoilt:
        # A flipped bit may write the same value in another way, such as 1E5 for 1e5.
        if (answer["code"], answer["out"]) != (0, whole["out"]):
            assert (answer["code"], answer["out"]) == (5, None), answer
            assert "stats.json.checkpoint" in one_line(answer["said"])


def test_damaged_manifest_is_refused_or_its_outputs_are_made_again(server: Server) -> None:
    folder = server.work
    done = server.succeed(JOBS["apply"])
    shutil.rmtree(folder / "out")
    stopped = server.ask("run", JOBS["apply"], at=done["points"] * 3 // 4)
    assert stopped["status"] == -signal.SIGKILL
    manifest = "out/_streambn.manifest"
    assert len((folder / manifest).read_text().splitlines()) > 2
    shutil.copytree(folder / "out", folder / "half")
    args = [*JOBS["apply"], "--resume"]
    assert damaged(server, args, manifest, "out", restore=[("half", "out")]) == []


FIT: list[object] = ["fit", "-q", "--threads", 1, "-o", "stats.json"]


def apply(name: str) -> tuple[list[object], str]:
    out = "out." + name.partition(".")[2].removesuffix(".gz")
    return ["apply", "given.json", "-q", "--threads", 1, "-o", out, name], out


def pages(content: bytes) -> set[int]:
    """Return the bytes of a Parquet file that the checksums of its pages cover."""
    metadata = pq.read_metadata(io.BytesIO(content))
    covered: set[int] = set()
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            at = chunk.dictionary_page_offset or chunk.data_page_offset
            end = at + chunk.total_compressed_size
            while at < end:
                header, size = footers.read_struct(content[at:end])
                at += size
                covered |= set(range(at, at + header[3][1]))
                at += header[3][1]
            assert at == end
    return covered


def test_damaged_parquet_is_found_where_checksums_cover_it(server: Server) -> None:
    """Page headers and the footer have no checksum in the format.

    Damage there is found only if it is inconsistent, such as an offset beyond the file. Another
    name of a column, or fewer values, could have been written. So a changed result is accepted
    there and nowhere else.
    """
    file = write(server.work / "f.parquet", some_table())
    covered = pages(file.read_bytes())
    assert len(covered) > 0.7 * file.stat().st_size
    for args, out in (([*FIT, file.name], "stats.json"), apply(file.name)):
        wrong = damaged(server, args, file.name, out)
        for answer in wrong:
            cut, position, _ = answer["case"]
            assert position is not None, answer
            assert position not in covered, answer
            assert cut == file.stat().st_size


def test_damaged_histograms_in_a_footer_do_not_abort_the_process(server: Server) -> None:
    """Arrow's own `metadata.row_group(0).column(0)` aborts on such a file."""
    file = server.work / "f.parquet"
    column = pa.array([[i] * (i % 3) for i in range(100)])
    pq.write_table(pa.table({"x": np.arange(100.0), "v": column}), file)
    content = file.read_bytes()
    start, footer = footers.read_footer(memoryview(content))
    _, (group,) = footer[4][1]
    meta = group[1][1][1][1][3][1]  # of the second column
    histogram = meta[16][1][2][1][1]  # of its repetition levels
    histogram.pop()
    damaged_footer = footers.write_struct(footer)
    end = struct.pack("<i", len(damaged_footer)) + b"PAR1"
    file.write_bytes(content[:start] + damaged_footer + end)
    for args in ([*FIT, file.name], apply(file.name)[0]):
        done = server.ask("run", args)
        assert done["status"] == 0, done
        assert done["code"] == 0 or one_line(done["stderr"])


def test_parquet_file_without_row_groups(server: Server) -> None:
    with pq.ParquetWriter(server.work / "f.parquet", some_table().schema):
        pass
    args, out = apply("f.parquet")
    server.succeed(args)
    assert pq.read_table(server.work / out).num_rows == 0


@pytest.mark.parametrize("name", ["f.arrow", "f.arrows"])
def test_damaged_ipc_fails_cleanly_or_gives_numbers(name: str, server: Server) -> None:
    """The format has no checksums: a flipped bit of a value makes another value.

    A cut is found, except after a batch of a stream, where the end mark is optional.
    """
    write(server.work / name, some_table())
    for args, out in (([*FIT, name], "stats.json"), apply(name)):
        for answer in damaged(server, args, name, out):
            assert answer["case"][1] is not None, answer


def test_damaged_csv_fails_cleanly_or_gives_numbers(server: Server) -> None:
    """A changed digit, or a missing last one, makes another number."""
    write(server.work / "f.csv", some_table())
    damaged(server, [*FIT, "f.csv"], "f.csv", "stats.json")
    damaged(server, apply("f.csv")[0], "f.csv", "out.csv")


def test_damaged_gzip_is_found(server: Server) -> None:
    file = write(server.work / "f.csv.gz", some_table())
    for args, out in (([*FIT, file.name], "stats.json"), apply(file.name)):
        assert damaged(server, args, file.name, out) == []


def test_command_reports_damage_in_one_line(server: Server) -> None:
    folder = server.work
    name = "data/y=2/c.arrow"
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    done = subprocess.run(
        [*COMMAND, "normalize", "data", "-o", "out/"],
        capture_output=True, text=True, check=False, env=ENV, timeout=TIMEOUT, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 1
    assert name in one_line(done.stderr)


# --- disks, folders and inputs ------------------------------------------------------------


@pytest.mark.parametrize("job", ["fit", "normalize", "normalize into one", "apply"])
def test_full_disk_is_one_line_and_complete_outputs_stay(job: str, server: Server) -> None:
    """A limit on the size of files has the same effect as a full disk."""
    args = JOBS[job]
    _, expected = server.undisturbed(args)
    made = {
        name: len(content)
        for name, content in expected.items()
        if name not in contents(server.data)
    }
    for size in (0, max(made.values()) // 2, max(made.values()) - 1):
        server.start_again()
        full = server.ask("run", args, file_size=size)
        assert (full["status"], full["code"]) == (0, 1), full
        assert "File too large" in last_line(full["stderr"])
        left = server.contents()
        assert not [name for name in left if name.endswith(".tmp")]
        for name in left.keys() & expected.keys() - {"out/_streambn.manifest"}:
            assert left[name] == expected[name]
        server.succeed([*args, "--resume"])
        assert server.contents() == expected


@pytest.mark.parametrize("job", ["fit", "normalize", "normalize into one", "apply"])
def test_output_that_cannot_be_created_is_one_line(job: str, server: Server) -> None:
    folder = server.work
    (folder / "file").touch()
    before = server.contents()
    args = JOBS[job]
    place = args.index("-o") + 1
    # Even root can create no file in /proc, and no folder below a file.
    for bad in ("/proc", "file"):
        wanted = [*args]
        wanted[place] = f"{bad}/{args[place]}"
        done = server.ask("run", wanted)
        assert done["status"] == 0
        assert done["code"] in (1, 2), done
        assert bad in last_line(done["stderr"])
        assert server.contents() == before


@pytest.mark.parametrize("what", ["truncate", "remove"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("job", ["fit", "normalize", "apply"])
def test_input_that_disappears_during_a_job_is_one_line(
    job: str, name: str, what: str, server: Server
) -> None:
    rng = random.Random(f"{job}{name}{what}")
    args = JOBS[job]
    total, expected = server.undisturbed(args)
    for at in points(max(server.faults // 3, 1), total, rng):
        server.start_again()
        done = server.ask("run", args, at=at, act=[what, f"data/{name}"])
        assert done["status"] == 0, done
        left = server.contents()
        assert not [name for name in left if name.endswith(".tmp")]
        if done["code"]:
            assert done["code"] in (1, 3), done
            assert name in one_line(done["stderr"])
            # Other outputs are right. A CSV file that is cut off looks complete.
            own = {f"data/{name}", f"out/{name}", "out/_streambn.manifest"}
            for each in left.keys() & expected.keys() - own:
                assert left[each] == expected[each], each
        server.restore_inputs()
        again = server.ask("run", [*args, "--resume"])
        if again["code"]:  # the job read the damaged input
            assert name in again["stderr"] or "--overwrite" in again["stderr"]
            assert re.search("has changed since|other statistics", one_line(again["stderr"]))
            server.succeed([*args, *["--overwrite"][: job != "fit"]])
        assert server.contents() == expected


@pytest.mark.parametrize("job", ["normalize", "apply"])
def test_output_folder_that_disappears_is_one_line(job: str, server: Server) -> None:
    args = JOBS[job]
    for at, expected in server.failures(args, random.Random(job)):
        (server.work / "out").mkdir()
        done = server.ask("run", args, at=at, act=["remove", "out"])
        assert done["status"] == 0, done
        if done["code"]:
            one_line(done["stderr"])
        server.succeed([*args, "--resume"])
        assert server.contents() == expected


# --- damage that is skipped ---------------------------------------------------------------


def spoilt_folder(folder: Path) -> pa.Table:
    """Make a folder of partly damaged files; return the undamaged rows."""
    shutil.rmtree(folder)
    tables = [some_table(seed=seed) for seed in range(3)]
    parquet = write(folder / "a.parquet", tables[0])
    content = bytearray(parquet.read_bytes())
    chunk = pq.read_metadata(parquet).row_group(2).column(0)
    content[chunk.data_page_offset + chunk.total_compressed_size - 9] ^= 1
    parquet.write_bytes(content)
    arrow = write(folder / "b.arrow", tables[1])
    content = bytearray(arrow.read_bytes())
    reader = pa.BufferReader(bytes(content))
    reader.seek(8)
    for _ in range(3):  # the schema and two batches
        pa.ipc.read_message(reader)
    content[reader.tell() : reader.tell() + 12] = bytes(12)
    arrow.write_bytes(content)
    other = pa.table({"other": np.arange(500.0), "s": ["a"] * 500})
    write(folder / "c.parquet", other)  # one file, although it has two pieces
    (folder / "d.csv").touch()
    write(folder / "e.csv", tables[2])
    # The stream ends with the batch that is cut off.
    stream = write(folder / "f.arrows", tables[2])
    stream.write_bytes(stream.read_bytes()[: stream.stat().st_size // 2])
    rest = [pa.concat_tables([t.slice(0, 500), t.slice(750)]) for t in tables[:2]]
    return pa.concat_tables([*rest, tables[2], tables[2].slice(0, 500)])


SKIPPED = [
    ("a.parquet", "in row group 2"),
    ("b.arrow", "in record batch 2"),
    ("c.parquet", ""),
    ("d.csv", ""),
    ("f.arrows", "after row 500"),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("job", ["fit", "normalize", "apply"])
def test_damaged_parts_are_skipped_and_listed(job: str, threads: int, server: Server) -> None:
    sound = spoilt_folder(server.work / "data")
    expected = sbn.Normalizer(columns=["x", "n"]).update(sound)
    expected.save(server.work / "given.json")
    args = ["--on-error", "skip", "--json", "--threads", threads, "-q"]
    done = server.ask("run", [*JOBS[job], *args])
    assert (done["status"], done["code"]) == (0, 0), done
    report = json.loads(done["stdout"])
    found = [(entry["file"].removeprefix("data/"), entry["where"]) for entry in report["skipped"]]
    lines = done["stderr"].splitlines()
    assert found == SKIPPED
    assert len(lines) == len(SKIPPED)
    for line, (name, where) in zip(lines, SKIPPED, strict=True):
        assert line.startswith(f"streambn: skipped data/{name}{where and ', '}{where}: "), line
    assert all(entry["why"] for entry in report["skipped"])
    assert report["rows"] == sound.num_rows
    if job != "apply":
        stats, wanted = sbn.load(server.work / "stats.json").stats(), expected.stats()
        for name in ("column", "count", "nulls"):
            assert stats[name] == wanted[name]
        for name in ("mean", "var"):
            np.testing.assert_allclose(stats[name], wanted[name], rtol=1e-13)
    if job != "fit":
        out = {path.name: path for path in (server.work / "out").iterdir()}
        assert sorted(out) == ["_streambn.manifest", "a.parquet", "b.arrow", "e.csv", "f.arrows"]
        statistics = sbn.load(server.work / {"apply": "given.json"}.get(job, "stats.json")).freeze()
        wanted = statistics.transform(sound)
        assert pq.read_table(out["a.parquet"])["x"].to_pylist() == wanted["x"].to_pylist()[:850]
        assert pa.ipc.open_stream(out["f.arrows"]).read_all()["x"] == wanted["x"].slice(2800)


def test_damage_stops_a_job_by_default(server: Server) -> None:
    spoilt_folder(server.work / "data")
    done = server.ask("run", JOBS["fit"])
    assert done["code"] == 1
    assert "a.parquet" in one_line(done["stderr"])
    assert not (server.work / "stats.json").exists()


# --- checkpoints of a fit -----------------------------------------------------------------


def test_sigusr1_neither_ends_nor_changes_a_job(server: Server) -> None:
    args = [*JOBS["fit"][:4], "-q"]
    total, expected = server.undisturbed(args)
    for at in range(1, total, max(total // server.faults, 1)):
        server.start_again()
        act = ["signal", signal.SIGUSR1]
        again = server.succeed(args, at=at, act=act, only="reach")
        assert again["stderr"] == ""
        assert server.contents() == expected


def test_data_of_a_truncated_file_is_in_no_checkpoint(server: Server) -> None:
    """The last block of a truncated file is shorter than in the whole file."""
    total, expected = server.undisturbed(JOBS["fit"], only="reach")
    for at in range(1, total, max(total // (5 * server.faults), 1)):
        server.start_again()
        act = ["truncate", "data/y=1/b.csv"]
        server.ask("run", JOBS["fit"], only="reach", at=at, act=act)
        server.restore_inputs()
        again = server.ask("run", [*JOBS["fit"], "--resume"])
        if again["code"] == 0:
            assert server.contents() == expected
        else:
            assert "has changed since" in one_line(again["stderr"])
