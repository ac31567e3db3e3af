"""The command itself: its help, its version, and how it ends when it is stopped."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import COMMAND, ENV, TIMEOUT, fit, good, piped, state, tree, unread, until
from terminal import in_a_terminal

import streambn as sbn
from streambn import kernels
from streambn.cli.app import COMMANDS, EXIT_CODES
from streambn.cli.app import streambn as command

# --- help and version -----------------------------------------------------------------


def test_version() -> None:
    for arguments in (["--version"], ["show", "--version"]):
        assert good(*arguments).stdout == (
            f"streambn {sbn.__version__}, {kernels.describe()}; pyarrow {pa.__version__}\n"
        )
    assert kernels.describe().startswith(f"{kernels.active} kernels (")


def test_help_lists_commands_and_exit_codes() -> None:
    out = good("--help").stdout
    assert good().stdout == good("-h").stdout == out
    words = " ".join(out.split())
    for name, (_, summary) in COMMANDS.items():
        assert f"{name} {summary}" in words
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in words


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str) -> None:
    done = good(name, "--help")
    assert done.stderr == ""
    assert f"Usage: streambn {name} " in done.stdout
    assert "\nExamples:\n" in done.stdout
    with click.Context(command) as context:
        found = command.get_command(context, name)
        assert found is not None
        # The summary in `streambn --help` is the first line of the command's own help.
        assert (found.help or "").splitlines()[0] == COMMANDS[name][1]
        # Every option and argument is explained.
        assert all(parameter.help for parameter in found.params)


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from streambn.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=ENV
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "streambn: the streambn command needs its extra: pip install 'streambn[cli]'\n"
    )


# --- what a job prints ----------------------------------------------------------------


def test_progress_is_shown_only_on_a_terminal(large: str) -> None:
    shown = in_a_terminal("fit", large, "-o", "t.json")
    assert "fitting" in shown
    assert "of 1 file" in shown
    assert in_a_terminal("fit", large, "-o", "t.json", "--quiet") == ""
    assert good("fit", large, "-o", "t.json", "--quiet", env=ENV).stderr == ""


def test_json_report(fitted: str) -> None:
    reports = []
    for args in (
        ("fit", "t.parquet", "-o", "again.json"),
        ("apply", fitted, "t.parquet", "-o", "out.csv"),
        ("normalize", "t.parquet", "-o", "out.csv"),
    ):
        [line] = good(*args, "--json").stdout.splitlines()
        reports.append(json.loads(line))
    assert [report["command"] for report in reports] == ["fit", "apply", "normalize"]
    assert [report["output"] for report in reports] == ["again.json", "out.csv", "out.csv"]
    fingerprint = sbn.load(fitted).fingerprint
    for report in reports:
        assert (report["rows"], report["files"], report["skipped"]) == (2, 1, [])
        assert (report["resumed"], report["fingerprint"]) == (False, fingerprint)


def test_the_json_report_keeps_out_of_an_output_on_stdout(fitted: str) -> None:
    done = good("apply", fitted, "t.parquet", "-o", "-", "--json", "--quiet", text=False)
    assert pa.ipc.open_stream(done.stdout).read_all().num_rows == 2
    assert json.loads(done.stderr)["output"] == "-"


def test_skipped_inputs_are_listed(fitted: str) -> None:
    Path("d").mkdir()
    pq.write_table(pa.table({"price": [1.0]}), "d/a.parquet")
    Path("d/b\nc.parquet").write_bytes(b"PAR1 damaged")
    done = good("fit", "d", "-o", "s.json", "--on-error", "skip", "--json")
    [skipped, _] = sorted(done.stderr.splitlines(), reverse=True)
    assert skipped.startswith("streambn: skipped d/b\\nc.parquet")
    [entry] = json.loads(done.stdout)["skipped"]
    assert entry["file"] == "d/b\nc.parquet"


# --- pipes and signals ----------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    ["apply s.json large.arrow -o -", "show s.json", "show s.json --format csv", "demo", "--help"],
)
def test_a_closed_pipe_ends_a_command_silently(large: str, args: str) -> None:
    with piped(*args.split()) as process:
        if args.startswith("apply"):
            assert process.stdout.read(10)
        process.stdout.close()
        assert process.wait(TIMEOUT) == 141
        assert process.stderr.read() == b""


def test_head(large: str) -> None:
    line = " ".join([*COMMAND, "apply", "s.json", large, "-o", "-"])
    done = subprocess.run(
        f"{line} | head -c 10", shell=True, capture_output=True, env=ENV, check=False
    )
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 10, b"")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "args",
    [
        "fit - -o out.json",
        "apply s.json - -o out.parquet",
        "apply s.json - -o out.csv",
        "apply s.json - -o new/",
        "apply s.json - -o -",
    ],
)
def test_a_signal_to_a_waiting_command_leaves_no_output(number: int, code: int, args: str) -> None:
    table = pa.table({"x": pa.array(range(1000), pa.float64())})
    fit(table)
    before = tree()
    with piped(*args.split()) as process:
        writer = pa.ipc.new_stream(process.stdin, table.schema)
        for _ in range(5):
            writer.write_table(table)
        process.stdin.flush()
        wait_until_idle(process)
        # A hidden file of the output, or of the lock of a checkpoint.
        assert (tree() != before) == (not args.endswith("-o -"))
        process.send_signal(number)
        assert process.wait(TIMEOUT) == code
        message = process.stderr.read().decode()
        fits = args.startswith("fit")
        assert message == "streambn: stopped; resume to continue from out.json.checkpoint\n" * fits
    # A pipe cannot be read again, so its statistics are kept.
    assert tree() == sorted([*before, *["out.json.checkpoint"] * fits])


def wait_until_idle(process: subprocess.Popen[bytes]) -> None:
    """Wait until the command has read its input and sleeps."""
    until(lambda: unread(process.stdin) == bytes(4) and state(process) == "S")
    time.sleep(0.1)


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with t.parquet, which takes seconds to normalize, and its statistics."""
    folder = tmp_path_factory.mktemp("many_rows")
    table = pa.table({"x": pa.array(range(1_000_000), pa.float64())})
    with contextlib.chdir(folder):
        fit(pa.concat_tables([table] * 20))
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv"])
def test_a_signal_to_a_working_command_leaves_no_output(
    number: int, suffix: str, many_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(many_rows)
    before = tree()
    with piped("apply", "s.json", "t.parquet", "-o", f"out{suffix}") as process:
        while tree() == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 128 + number
        assert process.stderr.read() == b""
    assert tree() == before


@pytest.mark.parametrize(("stop", "code"), [("KeyboardInterrupt", 130), ("SystemExit(143)", 143)])
def test_a_signal_during_a_finalizer_is_not_lost(stop: str, code: int) -> None:
    script = (
        "import time, streambn.cli.main\n"
        "class Finalized:\n"
        "    def __del__(self):\n"
        f"        raise {stop}\n"
        "def work(*_):\n"
        "    Finalized()\n"
        "    time.sleep(30)\n"
        "streambn.cli.main._invoke = work\n"
        "streambn.cli.main.main()"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=ENV, check=False)
    assert (done.returncode, done.stderr) == (code, b"")
    assert time.monotonic() - started < 20
