"""A user who may not read an input or write an output gets one line, and loses nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from other_user import NOBODY, OtherUser

from streambn.io import locate, lock

if not hasattr(os, "geteuid") or os.geteuid() != 0:
    pytest.skip("only root can become another user", allow_module_level=True)

DENIED = "Permission denied"
FIT = ("fit", "in", "-o", "t.json", "-q")
NORMALIZE = ("normalize", "in", "-o", "out", "-q")
APPLY = ("apply", "s.json", "in", "-o", "out", "-q")


@pytest.fixture(scope="module")
def user() -> Iterator[OtherUser]:
    user = OtherUser()
    yield user
    user.close()


@pytest.fixture
def folder(user: OtherUser) -> Iterator[Path]:
    """A folder of the user with two inputs and statistics; not pytest's, which is root's alone."""
    folder = Path(tempfile.mkdtemp())
    (folder / "in").mkdir()
    for name in "ab":
        (folder / f"in/{name}.csv").write_text("x\n1\n2\n3\n")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    assert user.run(folder, "fit", "in", "-o", "s.json", "-q") == (0, "")
    yield folder
    shutil.rmtree(folder)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return the content of each file, as root sees it."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in paths.items()}


Prepare = Callable[[Path], object]


def mode(name: str, bits: int) -> Prepare:
    return lambda folder: (folder / name).chmod(bits)


def of_root(name: str, text: str | None = None, bits: int = 0o755) -> Prepare:
    """Return a function that creates a folder, or a file, of root."""

    def prepare(folder: Path) -> None:
        path = folder / name
        if text is None:
            path.mkdir()
        else:
            path.write_text(text)
        path.chmod(bits)

    return prepare


def own(name: str) -> Prepare:
    def prepare(folder: Path) -> None:
        (folder / name).mkdir()
        os.chown(folder / name, NOBODY, NOBODY)

    return prepare


def both(*steps: Prepare) -> Prepare:
    return lambda folder: [step(folder) for step in steps]


HIDDEN = both(of_root("in/sub"), of_root("in/sub/c.csv", "x\n9\n"), mode("in/sub", 0))
STICKY = both(of_root("st", bits=0o1777), of_root("st/t.json", "{}", 0o666))
LOCK = both(own("out"), of_root("out/._streambn.manifest.lock", "", 0o600))
MANIFEST = both(own("out"), of_root("out/_streambn.manifest", "x", 0o600))
# What root or the user did before, the command, and the start and the end of its message.
CASES: dict[str, tuple[Prepare, tuple[str, ...], str, str]] = {
    "an input": (mode("in/b.csv", 0), FIT, "in/b.csv", DENIED),
    "an input of normalize": (mode("in/b.csv", 0), NORMALIZE, "in/b.csv", DENIED),
    "an input of apply": (mode("in/b.csv", 0), APPLY, "in/b.csv", DENIED),
    "an input folder without r": (mode("in", 0o300), FIT, "in", DENIED),
    "an input folder without x": (mode("in", 0o600), FIT, "in/a.csv", DENIED),
    "a file in it": (mode("in", 0o600), ("fit", "in/a.csv", *FIT[2:]), "in/a.csv", DENIED),
    "a glob in it": (mode("in", 0o600), ("fit", "in/*.csv", *FIT[2:]), "in/", DENIED),
    "a folder below the input": (HIDDEN, FIT, "in/sub", DENIED),
    "a folder below a glob": (HIDDEN, ("fit", "in/**/*.csv", *FIT[2:]), "in/sub", DENIED),
    "a folder of a glob": (HIDDEN, ("fit", "in/*/*.csv", *FIT[2:]), "in/sub", DENIED),
    "statistics": (mode("s.json", 0), APPLY, "s.json", DENIED),
    "statistics to show": (mode("s.json", 0), ("show", "s.json"), "s.json", DENIED),
    "statistics to merge": (
        mode("s.json", 0), ("merge", "s.json", "s.json", "-o", "m.json"), "s.json", DENIED,
    ),
    "an output folder": (of_root("ro"), ("fit", "in", "-o", "ro/t.json"), "ro/t.json", DENIED),
    "a folder of outputs": (of_root("out"), NORMALIZE, "out/a.csv", DENIED),
    "a folder in it": (of_root("ro"), (*APPLY[:4], "ro/out/"), "ro/out/a.csv", DENIED),
    "an output folder without x": (
        of_root("ro", bits=0o666), ("fit", "in", "-o", "ro/t.json"), "ro/t.json", DENIED,
    ),
    "a folder of statistics": (
        of_root("ro"), (*NORMALIZE[:3], "o.csv", "--save", "ro/t.json"), "ro/t.json", DENIED,
    ),
    "a folder of checkpoints": (of_root("ro"), (*FIT, "--checkpoint", "ro/c"), "ro/c", DENIED),
    "read-only statistics": (mode("s.json", 0o444), (*FIT[:3], "s.json"), "s.json", DENIED),
    "statistics of root": (of_root("t.json", "{}", 0o644), FIT, "t.json", DENIED),
    "a read-only output": (
        both(own("out"), of_root("out/b.csv", "x\n", 0o444)), APPLY, "out/b.csv", DENIED,
    ),
    "a sticky folder": (
        STICKY, ("fit", "in", "-o", "st/t.json"), "st/t.json", "Operation not permitted",
    ),
    "a lock file": (LOCK, NORMALIZE, "another user's ", "write elsewhere"),
    "a manifest": (MANIFEST, NORMALIZE, "out/_streambn.manifest", DENIED),
    "a manifest to replace": (
        MANIFEST, (*NORMALIZE, "--overwrite"), "out/_streambn.manifest", DENIED,
    ),
    "a checkpoint": (
        of_root("t.json.checkpoint", "x", 0o600), (*FIT, "--resume"), "t.json.checkpoint", DENIED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_denied_access_is_one_line_with_path_and_reason(
    case: str, user: OtherUser, folder: Path
) -> None:
    prepare, args, path, reason = CASES[case]
    prepare(folder)
    before = contents(folder)
    done = user.run(folder, *args)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith(f"streambn: {path}")
    assert line.endswith(reason)
    after = contents(folder)
    # Outputs that were complete before stay.
    complete = {"out/a.csv", "out/_streambn.manifest"} if case == "a read-only output" else set()
    assert {name: after[name] for name in after.keys() - complete} == before


def test_input_that_may_not_be_read_is_skipped(user: OtherUser, folder: Path) -> None:
    mode("in/b.csv", 0)(folder)
    done = user.run(folder, *NORMALIZE, "--on-error", "skip")
    assert done == (0, f"streambn: skipped in/b.csv: {DENIED}\n")


def test_leftover_of_another_user_is_no_obstacle(user: OtherUser, folder: Path) -> None:
    both(of_root("st", bits=0o1777), of_root("st/.t.json.deadbeef.tmp", "x"))(folder)
    assert user.run(folder, "fit", "in", "-o", "st/t.json", "-q", "--resume") == (0, "")
    assert sorted(os.listdir(folder / "st")) == [".t.json.deadbeef.tmp", "t.json"]


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o000])
def test_outputs_have_the_mode_of_the_umask(umask: int, user: OtherUser, folder: Path) -> None:
    done = user.run(folder, *NORMALIZE, "--save", "t.json", umask=umask)
    assert done == (0, "")
    files = [folder / "t.json", *(folder / "out").iterdir()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
    assert sorted(os.listdir(folder)) == ["in", "out", "s.json", "t.json"]


def test_lock_holds_for_another_user(user: OtherUser, folder: Path) -> None:
    with lock(locate(folder / "t.json.checkpoint")):
        done = user.run(folder, *FIT)
    assert done.code == 1
    assert "another job is writing t.json.checkpoint" in done.err
    assert user.run(folder, *FIT) == (0, "")
