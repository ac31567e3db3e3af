"""An input that is replaced, removed or added while a job runs, or before it is resumed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streambn.io import Source
from streambn.jobs import apply as apply_module
from streambn.jobs import fit as fit_module
from streambn.jobs import share_outputs

Run = Callable[..., Any]
Act = Callable[[], object]

A, B, C = Path("in/a.csv"), Path("in/b.csv"), Path("in/c.csv")
NORMALIZE = ("normalize", "in", "-o", "out", "-q")


def write(path: Path, factor: int = 1, rows: int = 10) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("x\n" + "".join(f"{factor * (i % 10)}\n" for i in range(rows)))


@pytest.fixture(autouse=True)
def _inputs(jobs_in_a_folder: None) -> None:
    for path in (A, B, C):
        write(path)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Act], None]:
    """Return a function that does something once, after the inputs are learned."""

    def between(act: Act) -> None:
        todo = [act]
        real = apply_module.total_size

        def total_size(sources: Any) -> Any:
            for each in todo:
                each()
            todo.clear()
            return real(sources)

        monkeypatch.setattr(apply_module, "total_size", total_size)

    return between


def replace_by_rename() -> None:
    write(Path("in/_new"), 3)
    Path("in/_new").rename(B)


def touch(path: Path, seconds: float) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + round(seconds * 1e9)))


# What happens to in/b.csv after it was learned. The size changes with the factor 1000 only.
CHANGES: dict[str, Act] = {
    "another size": lambda: write(B, 1000),
    "the same size": lambda: write(B, 3),
    "a new file of this name": replace_by_rename,
    "removed": B.unlink,
    "a folder in its place": lambda: (B.unlink(), B.mkdir()),
    "a clock ahead": lambda: touch(B, 3600),
    "a clock that went backwards": lambda: (write(B, 3), touch(B, -3600)),
}


@pytest.mark.parametrize(
    ("out", "threads", "more"),
    [
        ("out", 1, []),
        ("out", 2, ["--on-error", "skip"]),
        ("out.csv", 2, []),
        ("-", 2, []),
    ],
)
@pytest.mark.parametrize("change", CHANGES)
def test_change_between_the_passes_of_normalize_ends_the_job(
    change: str, out: str, threads: int, more: list[str], run: Run, between: Callable[[Act], None]
) -> None:
    between(CHANGES[change])
    done = run("normalize", "in", "-o", out, "-q", "--threads", threads, "--save", "s.json", *more)
    assert done.code == 1
    (line,) = done.lines
    assert line.startswith(f"streambn: {B} changed or was removed after")
    assert not Path("s.json").exists()
    # What was complete before stays, and nothing else does.
    left = {str(path) for path in Path().rglob("*") if path.is_file() and "in/" not in str(path)}
    assert left == ({"out/a.csv", "out/_streambn.manifest"} if out == "out" else set())


def test_only_the_listed_files_are_applied(run: Run, between: Callable[[Act], None]) -> None:
    between(lambda: write(Path("in/new.csv")))
    assert run(*NORMALIZE).code == 0
    assert sorted(path.name for path in Path("out").glob("*.csv")) == ["a.csv", "b.csv", "c.csv"]


def test_a_new_time_of_access_or_a_new_mode_is_no_change(
    run: Run, between: Callable[[Act], None]
) -> None:
    def look() -> None:
        os.utime(B, ns=(0, B.stat().st_mtime_ns))
        B.chmod(0o600)
        os.link(B, "in/_link")

    between(look)
    assert run(*NORMALIZE).code == 0


def test_input_that_changes_before_verify_takes_the_blame(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("fit", "in", "-o", "s.json", "-q").code == 0
    real = share_outputs.verification.verify_output

    def verify_output(output: Any, *args: Any) -> None:
        write(B, 3)
        real(output, *args)

    monkeypatch.setattr(share_outputs.verification, "verify_output", verify_output)
    done = run("apply", "s.json", str(B), "-o", "out.csv", "--verify", "-q")
    assert done.code == 1
    assert "in/b.csv changed" in done.lines[0]
    assert not Path("out.csv").exists()


# --- resume ---------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
def test_normalize_that_is_resumed_blames_the_input(
    change: str, run: Run, between: Callable[[Act], None]
) -> None:
    between(CHANGES[change])
    assert run(*NORMALIZE).code == 1
    shutil.rmtree(B, ignore_errors=True)
    write(B, 3)
    done = run(*NORMALIZE, "--resume")
    assert done.code == 1
    assert "outputs of other statistics, because an input or an option has changed" in done.lines[0]
    assert run(*NORMALIZE, "--resume", "--overwrite").code == 0


@pytest.mark.parametrize("more", [[], ["--resume"]], ids=["again", "resume"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: write(B, 1000), f"{B} has changed since its output was made"),
        (lambda: write(B, 3), f"{B} has changed since its output was made"),
        (B.unlink, f"{B} is no longer an input"),
        (lambda: write(Path("in/d.csv"), 7), "this folder holds outputs of other statistics"),
    ],
    ids=["size", "content", "removed", "added"],
)
def test_complete_normalize_that_runs_again_blames_the_input(
    change: Act, message: str, more: list[str], run: Run
) -> None:
    assert run(*NORMALIZE).code == 0
    change()
    done = run(*NORMALIZE, *more)
    assert done.code == 1
    assert message in done.lines[0]
    assert "overwrite" in done.lines[0]
    assert run(*NORMALIZE, *more, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: write(A, 1000), f"{A} has changed since it was read"),
        (lambda: write(A, 3), f"{A} has changed since it was read"),
        (lambda: touch(A, 3600), f"{A} has changed since it was read"),
        (lambda: touch(A, -3600), f"{A} has changed since it was read"),
        (A.unlink, f"{A} was an input and is no longer one"),
        (lambda: write(Path("in/d.csv")), "in/d.csv was not an input when the job began"),
    ],
    ids=["size", "content", "ahead", "backwards", "removed", "added"],
)
def test_fit_that_is_resumed_blames_the_input(
    change: Act, message: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Source.check_unchanged

    def interrupt(source: Source, stamp: Any) -> None:
        real(source, stamp)
        if source.path == str(B):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Source, "check_unchanged", interrupt)
        stopped = run("fit", "in", "-o", "s.json", "-q")
    assert stopped.code == 130
    assert Path("s.json.checkpoint").exists()
    change()
    done = run("fit", "in", "-o", "s.json", "-q", "--resume")
    assert done.code == 1
    assert done.lines == [
        f"streambn: --resume: {message}, so s.json.checkpoint cannot be resumed. Start again."
    ]


def test_no_hint_to_resume_where_an_input_changed(
    run: Run, between: Callable[[Act], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module.CheckpointWriter, "has_saved", True)
    between(lambda: write(B, 3))
    done = run(*NORMALIZE)
    assert done.code == 1
    assert "resume" not in done.lines[0]
    again = run(*NORMALIZE, "--resume")
    assert f"{B} has changed since it was read" in again.lines[0]
