"""What commands refuse, the one line that they print, and their exit codes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import COMMAND, ENV, TIMEOUT, bad, fit, ipc, run, says
from terminal import in_a_terminal

FIT = ("fit", "t.parquet", "-o", "out.json")
EMA = (*FIT, "--policy", "ema")
BY_TIME = (*EMA, "--halflife", 1, "--time", "x")
BATCH_EMA = (*FIT, "--policy", "batch-ema")
BY_ROW = ("normalize", "t.parquet", "-o", "o.csv", "--online", "--by-row")
APPLY = ("apply", "s.json", "t.parquet", "-o")

USAGE_ERRORS = [
    ("No such command", ["nonsense"]),
    ("--nonsense", [*FIT, "--nonsense"]),
    ("--output", ["fit", "t.parquet"]),
    ("INPUT", ["fit", "-o", "out.json"]),
    ("median", [*FIT, "--policy", "median"]),
    ("--frozen needs --output", ["fit", "t.parquet", "--checkpoint", "c.json", "--frozen"]),
    # Options of a policy.
    ("--halflife belongs to --policy ema, but the policy is exact", [*FIT, "--halflife", 3]),
    ("--batch-ddof belongs to --policy batch-ema", [*EMA, "--alpha", 0.1, "--batch-ddof", 0]),
    ("--time belongs to --policy ema", [*FIT, "--time", "x"]),
    ("exactly one of --alpha, --halflife, --span, --com.", EMA),
    ("exactly one of --alpha, --halflife, --span, --com.", [*EMA, "--alpha", 0.1, "--halflife", 3]),
    ("exactly one of --alpha, --halflife, --span, --com.", [*EMA, "--time", "x"]),
    ("--alpha: ", [*EMA, "--alpha", 2]),
    ("--alpha: ", [*EMA, "--alpha", 0.1, "--time", "x"]),
    ("--halflife: ", [*EMA, "--halflife", "7d"]),
    ("--halflife: ", [*EMA, "--halflife", "seven"]),
    ("--halflife: ", [*EMA, "--halflife", "1mo", "--time", "x"]),
    ("--adjust: ", [*BY_TIME, "--no-adjust"]),
    ("--ignore-na: ", [*BY_TIME, "--ignore-na"]),
    ("--null-time: ", [*EMA, "--halflife", 1, "--null-time", "skip"]),
    ("'--null-time'", [*BY_TIME, "--null-time", "ignore"]),
    ("exactly one of --momentum, --decay.", [*BATCH_EMA, "--momentum", 0.1, "--decay", 0.9]),
    ("'--momentum'", [*BATCH_EMA, "--momentum", "much"]),
    ("'--initial'", [*BATCH_EMA, "--momentum", 0.1, "--initial", "0"]),
    ("--batch-ddof: ", [*BATCH_EMA, "--decay", 0.9, "--batch-ddof", 9]),
    # Options of every policy.
    ("--ddof: ", [*FIT, "--ddof", 9]),
    ("--eps: ", [*FIT, "--eps", -1]),
    ("'--affine'", [*FIT, "--affine", "x"]),
    ("'--affine'", [*FIT, "--affine", "x=1"]),
    ("--affine: ", [*FIT, "--affine", "s.json"]),
    ("--weights: ", [*BATCH_EMA, "--decay", 0.9, "--weights", "x"]),
    ("--weights: ", [*EMA, "--alpha", 0.1, "--no-adjust", "--weights", "x"]),
    ("--weights cannot be changed", [*FIT, "--continue-from", "s.json", "--weights", "x"]),
    ("--eps cannot be changed", [*FIT, "--continue-from", "s.json", "--eps", 1]),
    # Options of a job.
    ("'--csv-type': 'x=dubble' must be NAME=TYPE", [*FIT, "--csv-type", "x=dubble"]),
    ("'--threads'", [*FIT, "--threads", 0]),
    ("'--threads'", [*FIT, "--threads", "9" * 20]),
    *(
        (
            f"'--checkpoint-every': '{every}' must be a duration",
            [*FIT, f"--checkpoint-every={every}"],
        )
        for every in ("soon", "0", "0s", "-3", "1.5")
    ),
    ("'--row-group-rows'", [*APPLY, "out/", "--row-group-rows", 0]),
    ("'--compression'", [*APPLY, "out/", "--compression", "rar"]),
    ("'--threads'", [*APPLY, "out/", "--threads", 0]),
    ("float16", [*APPLY, "out.csv", "--dtype", "float16"]),
    ("yaml", ["show", "s.json", "--format", "yaml"]),
    ("--verify", [*APPLY, "-", "--verify"]),
    ("--online", ["normalize", "t.parquet", "-o", "o.csv", "--online", "--resume"]),
    ("needs --online", ["normalize", "t.parquet", "-o", "o.csv", "--by-row"]),
    ("cannot be combined with --using batch", [*BY_ROW, "--using", "batch"]),
    ("averages over blocks", [*BY_ROW, "--policy", "batch-ema", "--momentum", 0.1]),
    # Files that must not be written.
    ("is one of the inputs", ["fit", "t.parquet", "-o", "t.parquet"]),
    ("is one of the inputs", [*APPLY, "./t.parquet"]),
    ("no/such does not exist", ["fit", "t.parquet", "-o", "no/such/out.json"]),
    ("is not a regular file", ["fit", "t.parquet", "-o", "/dev/null"]),
    ("to a file", ["fit", "t.parquet", "-o", "-"]),
    (".parquet", [*APPLY, "out.txt"]),
    ("same file", ["normalize", "t.parquet", "-o", "o.csv", "--save", "o.csv"]),
    ("would replace s.json", [*FIT, "--continue-from", "s.json", "--checkpoint", "s.json"]),
]


@pytest.mark.parametrize(("message", "args"), USAGE_ERRORS)
def test_usage_errors(message: str, args: list[object]) -> None:
    fit(pa.table({"x": [1.0, 2.0]}))
    before = Path("s.json").read_bytes()
    assert message in bad(2, *args)
    assert Path("s.json").read_bytes() == before


def test_normalize_cannot_read_a_pipe_twice() -> None:
    stream = ipc(pa.table({"x": [1.0, 2.0]}))
    message = bad(2, "normalize", "-", "-o", "out.parquet", input=stream, text=False)
    says(message, "reads its inputs twice", "--online")


@pytest.mark.parametrize(
    ("code", "message", "flags"),
    [
        (1, "--halflife: t.parquet: column 'at'", ["--halflife", 30, "--time", "at"]),
        (1, "--halflife: t.parquet: column 'volume'", ["--halflife", "1w", "--time", "volume"]),
        (3, "'venue' is string", ["--halflife", "7d", "--time", "venue"]),
        (3, "Did you mean 'venue'?", ["--halflife", "7d", "--time", "venu"]),
        (3, "Did you mean 'volume'?", ["--halflife", 9, "--weights", "volumes"]),
        (3, "--weights: t.parquet: ", ["--halflife", 9, "--weights", "at"]),
        (1, "null", ["--halflife", 9, "--weights", "price"]),
    ],
)
def test_columns_that_cannot_be_times_or_weights(
    code: int, message: str, flags: list[object], trades: pa.Table
) -> None:
    pq.write_table(trades, "t.parquet")
    printed = bad(code, "fit", "t.parquet", "-o", "s.json", "--policy", "ema", *flags)
    assert "t.parquet: " in printed
    assert message in printed


def test_schema_errors_name_file_and_column(fitted: str) -> None:
    pq.write_table(pa.table({"prize": [1.0]}), "other.parquet")
    pq.write_table(pa.table({"price": ["1"], "s": ["a"]}), "text.parquet")
    pq.write_table(pa.table({"price": [1.0], "s": ["a"], "more": [1]}), "more.parquet")
    says(bad(3, "fit", "t.parquet", "-o", "out.json", "--columns", "prise"), "'prise'", "'price'")
    assert "'s'" in bad(3, "fit", "t.parquet", "-o", "out.json", "--columns", "s")
    says(bad(3, "fit", "t.parquet", "other.parquet", "-o", "out.json"), "other.parquet", "'price'")
    for out in ("out.csv", "out/", "-"):
        says(bad(3, "apply", fitted, "text.parquet", "-o", out, env=ENV), "text.parquet", "'price'")
    message = bad(3, "apply", fitted, "t.parquet", "more.parquet", "-o", "out.parquet")
    says(message, "more.parquet", "'more'")


def test_damaged_inputs(fitted: str) -> None:
    content = Path("t.parquet").read_bytes()
    Path("short.parquet").write_bytes(content[:-20])
    Path("empty.parquet").touch()
    Path("rubbish.csv").write_bytes(bytes(range(256)))
    for path in ("short.parquet", "empty.parquet", "rubbish.csv", "nothing.csv", "no*.csv"):
        assert path in bad(1, "fit", path, "-o", "out.json")
        assert path in bad(1, "apply", fitted, path, "-o", "out.csv")
    stream = ipc(pa.table({"price": [1.0] * 1000, "s": ["a"] * 1000}))
    for content in (b"", b"a,b\n1,2\n3\n", stream[:-500]):
        assert "standard input" in bad(1, "fit", "-", "-o", "o.json", input=content, text=False)


def test_a_ragged_row_that_is_not_text_is_one_line() -> None:
    rows = b"".join(b"%d,%d\n" % (i, i) for i in range(20))
    Path("t.csv").write_bytes(b"x,y\n" + rows + b"1\xac,2,3\n")
    assert "t.csv" in bad(1, "fit", "t.csv", "-o", "s.json", env=ENV)


def test_corrupt_statistics(fitted: str) -> None:
    text = Path(fitted).read_text()
    number = max(i for i, c in enumerate(text) if c in "12345678")
    for broken in ("", "{}", text[:-10], text[:number] + "9" + text[number + 1 :]):
        Path("broken.json").write_text(broken)
        assert "broken.json" in bad(5, "show", "broken.json")
    for args in (
        ["apply", "broken.json", "t.parquet", "-o", "out.csv"],
        ["merge", "broken.json", fitted, "-o", "out.json"],
        ["fit", "t.parquet", "--continue-from", "broken.json", "-o", "out.json"],
    ):
        assert "broken.json" in bad(5, *args)
    assert "t.parquet" in bad(5, "show", "t.parquet")
    assert "nothing.json" in bad(1, "show", "nothing.json")


def test_no_permission(fitted: str) -> None:
    Path("locked").mkdir(mode=0o500)
    # Root can write to every folder, but not to /sys.
    folder = "locked" if os.geteuid() else "/sys"
    message = bad(1, "apply", fitted, "t.parquet", "-o", f"{folder}/out.csv")
    assert "Permission denied" in message or "Read-only file system" in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(fitted: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "apply", fitted, "t.parquet", "-o", "-"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=ENV, timeout=TIMEOUT,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "streambn: No space left on device\n"


def test_binary_output_does_not_go_to_a_terminal(fitted: str) -> None:
    shown = in_a_terminal("apply", fitted, "t.parquet", "-o", "-", code=2)
    assert " ".join(shown.split()).startswith("streambn: standard output is a terminal")


def test_the_output_does_not_replace_the_statistics(fitted: str) -> None:
    Path("stats.csv").write_bytes(Path(fitted).read_bytes())
    before = Path("stats.csv").read_bytes()
    assert "stats.csv" in bad(2, "apply", "stats.csv", "t.parquet", "-o", "stats.csv")
    assert Path("stats.csv").read_bytes() == before


def test_statistics_do_not_go_into_the_input_folder(fitted: str) -> None:
    Path("d").mkdir()
    Path("d/t.parquet").write_bytes(Path("t.parquet").read_bytes())
    assert "is in the input folder" in bad(2, "fit", "d", "-o", "d/stats.json")


@pytest.mark.parametrize(
    ("name", "value", "args"),
    [
        ("STREAMBN_THREADS", "many", FIT),
        ("STREAMBN_THREADS", "0", FIT),
        ("STREAMBN_THREADS", "9" * 20, FIT),
        ("STREAMBN_SIMD", "fast", FIT),
        ("STREAMBN_THREADS", "many", ("show", "s.json")),
        ("STREAMBN_KERNELS", "fast", FIT),
        ("STREAMBN_KERNELS", "fast", ("show", "s.json")),
    ],
)
def test_an_invalid_environment_variable(
    name: str, value: str, args: tuple[str, ...], fitted: str
) -> None:
    done = run(*args, env={**ENV, name: value})
    assert done.returncode in (1, 2)
    [line] = done.stderr.splitlines()
    assert line.startswith("streambn: ")
    assert name in line
    assert repr(value) in line


# --- failures as JSON -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "args"),
    [
        (1, "FileNotFoundError", ["apply", "nothing.json", "t.parquet", "-o", "out.csv"]),
        (1, "StreamBNError", ["fit", "nothing.csv", "-o", "out.json"]),
        (2, "UsageError", [*FIT, "--nonsense"]),
        (2, "UsageError", [*FIT, "--eps", -1]),
        (2, "UsageError", ["fit", "t.parquet", "-o", "t.parquet"]),
        (3, "SchemaError", [*FIT, "--columns", "prise"]),
        (5, "SnapshotError", ["apply", "t.parquet", "t.parquet", "-o", "out.csv"]),
    ],
)
def test_json_failures(code: int, kind: str, args: list[object], fitted: str) -> None:
    plain = run(*args)
    done = run(*args, "--json")
    assert (plain.returncode, plain.stdout) == (code, "")
    assert (done.returncode, done.stderr) == (code, plain.stderr)
    [line] = done.stdout.splitlines()
    message = plain.stderr.removeprefix("streambn: ").removesuffix("\n")
    assert json.loads(line) == {"error": message, "kind": kind, "exit_code": code}


def test_a_json_failure_keeps_out_of_an_output_on_stdout(fitted: str) -> None:
    pq.write_table(pa.table({"price": ["a"]}), "text.parquet")
    done = run("apply", fitted, "text.parquet", "-o", "-", "--json", env=ENV)
    assert (done.returncode, done.stdout) == (3, "")
    [line] = done.stderr.splitlines()
    assert json.loads(line)["kind"] == "SchemaError"
