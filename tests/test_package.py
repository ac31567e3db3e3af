"""The package as a whole: rooms, exports, what is imported, what the wheel holds."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streambn
import streambn.adapters
from streambn import errors, kernels

ROOT = Path(__file__).parent.parent
PACKAGE = Path(streambn.__file__).parent

# The lowest floor first. A module imports its own floor and those before it, never a later one.
# `io` stands below `normalizer`, which saves and loads statistics through it.
FLOORS = [
    "_lazy",
    "errors",
    "kernels",
    "accumulators",
    "policies",
    "options",
    "arrow",
    "statistics",
    "standardize",
    "snapshot",
    "io",
    "_repr",
    "_transformer",
    "normalizer",
    "online",
    "testing",
    "parquet",
    "jobs",
    "cli",
]
# Inside kernels/ too.
KERNELS = [
    "interface",
    "moments",
    "exact",
    "recursion",
    "rows",
    "bitmaps",
    "flatten",
    "doubledouble",
    "reference",
    "native",
]


def imports(path):
    """Give (module, names) for every import statement, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if path.parent == ROOT / "adapters" and node.level == 1:
                continue  # a helper beside it; where adapters/ is installed is not its business
            assert node.level == 0, f"{path.name} has a relative import"
            yield node.module, [alias.name for alias in node.names]


def rooms_of(path):
    """Name the rooms that a file imports, or asks the package for, which then imports them."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id="streambn" | "sbn"), attr=name):
                yield streambn._HOMES.get(name, name)
    for module, names in imports(path):
        parts = module.split(".")
        if parts[0] != "streambn":
            continue
        asked = [parts[1]] if len(parts) > 1 else names
        yield from (streambn._HOMES.get(name, name) for name in asked)


def sources(folder):
    return [
        p for p in sorted(folder.rglob("*.py")) if "adapters" not in p.relative_to(folder).parts
    ]


def test_every_module_has_a_floor():
    found = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in sources(PACKAGE)}
    assert found - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("path", sources(PACKAGE), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_imports_a_higher_floor(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for imported in rooms_of(path):
        if imported == "__version__":
            continue
        assert FLOORS.index(imported) <= FLOORS.index(room), f"{room} imports {imported}"


def test_no_kernel_imports_one_above_it():
    for path in sources(PACKAGE / "kernels"):
        room = path.relative_to(PACKAGE / "kernels").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for module, _ in imports(path):
            if module.startswith("streambn.kernels."):
                imported = module.split(".")[2]
                assert KERNELS.index(imported) <= KERNELS.index(room), f"{room}: {imported}"


def test_adapters_import_public_names_only():
    adapters = sorted((ROOT / "adapters").glob("*.py"))
    assert adapters
    for path in adapters:
        for module, names in imports(path):
            if module.split(".")[0] == "streambn":
                assert module in {
                    "streambn",
                    "streambn.errors",
                    "streambn.testing",
                }
                assert set(names) <= set(importlib.import_module(module).__all__)


def modules():
    names = [m.name for m in pkgutil.walk_packages(streambn.__path__, "streambn.")]
    return sorted({"streambn", *names} - {"streambn.cli.__main__", "streambn.kernels.native._core"})


@pytest.mark.parametrize("name", modules())
def test_all_is_exact(name):
    if name == "streambn.adapters":
        return
    if name == "streambn.kernels.native":
        absent = "the compiled kernels are not there: install streambn where there is a compiler"
        pytest.importorskip(name, reason=absent, exc_type=ImportError)
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for exported in module.__all__:
        assert hasattr(module, exported)
    tree = ast.parse(Path(module.__file__).read_text())
    kinds = ast.FunctionDef | ast.ClassDef
    public = {n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")}
    assert public <= set(module.__all__), "public by name, but not in __all__"


def test_the_public_names_are_these():
    assert set(streambn.__all__) == {
        "EMA",
        "BatchEMA",
        "Exact",
        "FrozenNormalizer",
        "InvalidValueError",
        "MergeError",
        "NotFittedError",
        "Normalizer",
        "RowNormalizer",
        "SchemaError",
        "SnapshotError",
        "StreamBNError",
        "Welford",
        "__version__",
        "errors",
        "load",
    }


def loaded_by(code, **environment):
    """Name the modules that there are in a process which has run this."""
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return set(ran.stderr.split())


def run_by_command(*arguments):
    """Name the modules that a command has loaded when it ends."""
    return loaded_by(
        "from streambn.cli.main import run\n"
        f"code = run({[*map(str, arguments)]})\n"
        "assert code == 0, code\n"
    )


def test_importing_streambn_imports_nothing_but_itself():
    loaded = loaded_by("import streambn")
    assert {name for name in loaded if name.startswith("streambn")} == {"streambn"}
    assert {name.partition(".")[0] for name in loaded} <= {
        *sys.stdlib_module_names,
        *{name.partition(".")[0] for name in loaded_by("")},
        "streambn",
    }


def test_using_streambn_imports_nothing_heavy():
    loaded = loaded_by("import streambn.snapshot; streambn.Normalizer")
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & {"click", "rich", "pandas", "polars", "hypothesis", "duckdb"}
    heavy = {"pyarrow.dataset", "pyarrow.fs", "pyarrow.parquet", "pyarrow.csv", "pyarrow.compute"}
    assert not loaded & heavy
    # numpy and pyarrow themselves load other packages where those are installed.
    loaded_anyway = loaded_by("import numpy, pyarrow, msgspec")
    ours = roots - {name.partition(".")[0] for name in loaded_anyway}
    assert ours - set(sys.stdlib_module_names) == {"streambn"}


def test_learning_needs_no_statistics_file_and_no_second_implementation():
    loaded = loaded_by(
        "import pyarrow as pa, streambn as sbn\n"
        "sbn.Normalizer().update(pa.table({'x': [1.0, 2.0]})).stats()"
    )
    assert not loaded & {"streambn.snapshot", "msgspec"}
    assert ("streambn.kernels.reference" in loaded) == (kernels.active == "reference")


def test_the_reference_is_taken_where_it_is_asked_for():
    loaded = loaded_by("import streambn; streambn.kernels", STREAMBN_KERNELS="reference")
    assert "streambn.kernels.reference" in loaded
    assert "streambn.kernels.native" not in loaded


def test_help_imports_only_what_it_shows():
    loaded = run_by_command("--help")
    assert not loaded & {"pyarrow", "numpy", "msgspec", "rich"}
    ours = {name for name in loaded if name.startswith("streambn.")}
    assert ours == {f"streambn.{name}" for name in (
        "_lazy", "errors", "cli", "cli.app", "cli.main", "cli.messages")}  # fmt: skip


@pytest.mark.parametrize("command", ["fit", "apply", "normalize", "merge"])
def test_help_of_a_command_imports_nothing_heavy(command):
    loaded = run_by_command(command, "--help")
    assert not {name.partition(".")[0] for name in loaded} & {"rich", "pandas"}
    assert not loaded & {"pyarrow.dataset", "pyarrow.csv", "pyarrow.compute"}


def test_a_fit_imports_only_what_it_uses(tmp_path):
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "x.parquet")
    output = tmp_path / "stats.json"
    loaded = run_by_command("fit", tmp_path / "x.parquet", "-o", output, "--policy", "ema",
                            "--halflife", "10", "--eps", "0.1")  # fmt: skip
    assert output.exists()
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & {"rich", "pandas", "pydantic"}
    assert not loaded & {"pyarrow.dataset", "pyarrow.csv", "pyarrow.compute"}
    assert ("streambn.kernels.reference" in loaded) == (kernels.active == "reference")


def test_garbage_is_collected_while_a_command_runs():
    code = (
        "import gc, sys, streambn.cli.statistics\n"
        "gc.disable()\n"
        "def work(**_): assert gc.isenabled(); sys.exit(7)\n"
        "streambn.cli.statistics.show.callback = work\n"
        "from streambn.cli.main import run\n"
        "assert run(['show', 'x']) == 7"
    )
    loaded_by(code)


def test_names_are_there_before_they_are_asked_for():
    code = (
        "import streambn; listed = dir(streambn); from streambn import *; "
        "assert {*streambn.__all__} <= {*listed} & {*globals()}; "
        "assert streambn.errors.SchemaError is SchemaError; "
        "assert streambn.kernels.active in streambn.kernels.describe()"
    )
    loaded_by(code)
    with pytest.raises(AttributeError, match="no attribute 'Normaliser'"):
        streambn.Normaliser  # noqa: B018
    assert not hasattr(streambn, "__wrapped__")


def test_every_error_is_a_value_error_of_the_one_tree():
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.StreamBNError)
        assert issubclass(getattr(errors, name), ValueError)


def test_a_missing_column_is_answered_with_the_nearest():
    message = str(errors.SchemaError.missing("pirce", ["price", "volume"]))
    assert "column 'pirce' is not in the data. Did you mean 'price'?" in message
    assert "Did you mean" not in str(errors.SchemaError.missing("zzz", ["price"]))


def test_versions_and_extras_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == streambn.__version__
    extras = ["bench", "cli", "dev", "river", "sklearn", "test"]
    assert sorted(project["optional-dependencies"]) == extras
    names = {d.split(">")[0] for d in project["dependencies"]}
    assert names == {"numpy", "pyarrow", "msgspec"}
    assert f"## {streambn.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_installed_package_has_its_parts():
    """The wheel, when that is what is installed: typing marker, data, adapters, licence."""
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "cli" / "data" / "co2.csv").exists()
    if PACKAGE.parent == ROOT:
        return  # a source tree on the path, as in development
    assert streambn.adapters.__doc__
    installed = {str(f) for f in importlib.metadata.files("streambn")}
    assert any(f.endswith("LICENSE") for f in installed)
    assert not any(f.startswith(("tests/", "benchmarks/")) for f in installed)
    scripts = importlib.metadata.distribution("streambn").entry_points
    assert [s.value for s in scripts if s.name == "streambn"] == ["streambn.cli.main:main"]


def test_no_machine_shows_in_the_project():
    """Paths of one machine, left in a file, mean nothing on another."""
    for path in [*sources(ROOT / "streambn"), *(ROOT / "benchmarks").glob("*.py")]:
        text = path.read_text()
        assert "/home/" not in text
        assert "/root/" not in text
