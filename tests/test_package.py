"""The package as a whole: public names, start-up, environment variables, and the wheel."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
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


def run_python(code: str, cwd: Path | None = None, **environment: str) -> str:
    """Run code in a process of its own and return what it wrote to stderr."""
    options = {"capture_output": True, "text": True, "cwd": cwd}
    command, env = [sys.executable, "-c", code], {**os.environ, **environment}
    done = subprocess.run(command, env=env, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stderr


def loaded_by(code: str, **environment: str) -> set[str]:
    """Return the names of the modules that are loaded after the code has run."""
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    return set(run_python(code, **environment).split())


def roots(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def loaded_by_command(*arguments: object) -> set[str]:
    return loaded_by(
        "from streambn.cli.main import run\n"
        f"code = run({[*map(str, arguments)]})\n"
        "assert code == 0, code\n"
    )


# ------------------------------------------------------------------- public names


PUBLIC = """
    EMA BatchEMA Checkpointer Exact FrozenNormalizer InvalidValueError MergeError NotFittedError
    Normalizer RowNormalizer SchemaError SnapshotError StreamBNError Watcher Welford __version__
    errors from_bytes load merge
"""


def test_public_names() -> None:
    assert set(streambn.__all__) == set(PUBLIC.split())


def test_public_names_exist_before_their_first_use() -> None:
    run_python(
        "import streambn; listed = dir(streambn); from streambn import *; "
        "assert {*streambn.__all__} <= {*listed} & {*globals()}; "
        "assert streambn.errors.SchemaError is SchemaError; "
        "assert streambn.kernels.active in streambn.kernels.describe()"
    )
    with pytest.raises(AttributeError, match="no attribute 'Normaliser'"):
        streambn.Normaliser  # noqa: B018
    assert not hasattr(streambn, "__wrapped__")


def test_every_error_is_a_value_error_of_one_tree() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.StreamBNError)
        assert issubclass(getattr(errors, name), ValueError)


def test_missing_column_error_names_the_nearest_column() -> None:
    error = errors.SchemaError.missing("pirce", ["price", "volume"])
    assert "column 'pirce' is not in the data. Did you mean 'price'?" in str(error)
    assert (error.column, error.argument) == ("pirce", None)
    assert "Did you mean" not in str(errors.SchemaError.missing("zzz", ["price"]))


# ----------------------------------------------------------------------- start-up


def test_import_of_streambn_imports_nothing_else() -> None:
    loaded = loaded_by("import streambn")
    assert {name for name in loaded if name.startswith("streambn")} == {"streambn"}
    assert roots(loaded) <= {*sys.stdlib_module_names, *roots(loaded_by("")), "streambn"}


def test_use_of_streambn_imports_nothing_heavy() -> None:
    loaded = loaded_by("import streambn.snapshot; streambn.Normalizer")
    assert not roots(loaded) & {"click", "rich", "pandas", "polars", "hypothesis", "duckdb"}
    heavy = {"pyarrow.dataset", "pyarrow.fs", "pyarrow.parquet", "pyarrow.csv", "pyarrow.compute"}
    assert not loaded & heavy
    # NumPy and pyarrow load other packages where those are installed.
    ours = roots(loaded) - roots(loaded_by("import numpy, pyarrow, msgspec"))
    assert ours - set(sys.stdlib_module_names) == {"streambn"}


def test_learning_imports_no_snapshot_and_one_implementation() -> None:
    loaded = loaded_by(
        "import pyarrow as pa, streambn as sbn\n"
        "sbn.Normalizer().update(pa.table({'x': [1.0, 2.0]})).stats()"
    )
    assert not loaded & {"streambn.snapshot", "msgspec"}
    assert ("streambn.kernels.reference" in loaded) == (kernels.active == "reference")


def test_help_imports_only_what_it_shows() -> None:
    loaded = loaded_by_command("--help")
    assert not loaded & {"pyarrow", "numpy", "msgspec", "rich"}
    ours = {name for name in loaded if name.startswith("streambn.")}
    assert ours == {f"streambn.{name}" for name in (
        "_credentials", "_lazy", "_messages", "errors", "cli", "cli.app", "cli.main",
        "cli.messages")}  # fmt: skip


@pytest.mark.parametrize("command", ["fit", "apply", "normalize", "merge"])
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    loaded = loaded_by_command(command, "--help")
    assert not roots(loaded) & {"rich", "pandas"}
    assert not loaded & {"pyarrow.dataset", "pyarrow.csv", "pyarrow.compute"}


def test_fit_imports_only_what_it_uses(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "x.parquet")
    output = tmp_path / "stats.json"
    loaded = loaded_by_command("fit", tmp_path / "x.parquet", "-o", output, "--policy", "ema",
                               "--halflife", "10", "--eps", "0.1")  # fmt: skip
    assert output.exists()
    assert not roots(loaded) & {"rich", "pandas", "pydantic"}
    assert not loaded & {"pyarrow.dataset", "pyarrow.csv", "pyarrow.compute"}
    assert ("streambn.kernels.reference" in loaded) == (kernels.active == "reference")


@pytest.mark.parametrize("flags", [[], ["--all"], ["--format", "csv"], ["--format", "json"]])
def test_show_imports_only_what_it_uses(flags: list[str], tmp_path: Path) -> None:
    streambn.Normalizer().update(pa.table({f"x{i}": [1.0, 2.0] for i in range(50)})).save(
        tmp_path / "stats.json"
    )
    loaded = loaded_by_command("show", tmp_path / "stats.json", "--columns", "x*", *flags)
    assert "pandas" not in roots(loaded)
    assert not loaded & {"rich.console", "rich.table", "pyarrow.dataset", "pyarrow.csv"}


def test_garbage_is_collected_while_a_command_runs() -> None:
    run_python(
        "import gc, sys, streambn.cli.statistics\n"
        "gc.disable()\n"
        "def work(**_): assert gc.isenabled(); sys.exit(7)\n"
        "streambn.cli.statistics.show.callback = work\n"
        "from streambn.cli.main import run\n"
        "assert run(['show', 'x']) == 7"
    )


# ---------------------------------------------------------- environment variables


def test_environment_selects_the_reference_kernels() -> None:
    loaded = loaded_by("import streambn; streambn.kernels", STREAMBN_KERNELS="reference")
    assert "streambn.kernels.reference" in loaded
    assert "streambn.kernels.native" not in loaded


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        *(
            ("STREAMBN_THREADS", value, f"must be an integer from 1 to 4,096, got {value!r}")
            for value in ("0", "-1", "two", "1e3", " 4", "4_0", "²", "٣", "4097", "9" * 20)
        ),
        ("STREAMBN_THREADS", "9" * 5000, "must be an integer from 1 to 4,096, got '999"),
        ("STREAMBN_SIMD", "AVX2", "must be 'baseline', 'avx2' or 'avx512', got 'AVX2'"),
        ("STREAMBN_KERNELS", "fast", "must be 'native' or 'reference', got 'fast'"),
    ],
)
def test_invalid_environment_variable_is_named(variable: str, value: str, says: str) -> None:
    code = (
        "import sys\n"
        "from streambn.errors import InvalidValueError\n"
        "try:\n"
        "    import streambn.kernels\n"
        "except InvalidValueError as error:\n"
        "    assert '\\n' not in str(error)\n"
        "    print(error.argument, error, file=sys.stderr)\n"
    )
    environment = {variable: value}
    assert run_python(code, **environment).startswith(f"{variable} {variable} {says}")


def kernels_are_compiled() -> bool:
    try:
        return importlib.util.find_spec("streambn.kernels.native._core") is not None
    except ImportError:  # of the package around it, which needs them
        return False


@pytest.mark.parametrize("variable", ["STREAMBN_THREADS", "STREAMBN_KERNELS", "STREAMBN_SIMD"])
def test_empty_environment_variable_counts_as_unset(variable: str) -> None:
    kernels = "native" if kernels_are_compiled() else "reference"
    loaded = loaded_by("import streambn.kernels", **{variable: ""})
    assert f"streambn.kernels.{kernels}" in loaded


def copy_sources(folder: Path) -> Path:
    """Copy the package without its compiled extension."""
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "src", "adapters")
    shutil.copytree(PACKAGE, folder / "streambn", ignore=ignored)
    return folder


USE_SOURCES = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if isinstance(f, type)]  # no editable install
sys.path.insert(0, "")
import streambn, pyarrow
{line}
"""
LEARN = "streambn.Normalizer().update(pyarrow.table({'x': [1.0]})); streambn.Welford()"


def test_source_checkout_without_kernels_warns_once(tmp_path: Path) -> None:
    checkout = copy_sources(tmp_path)
    (checkout / "pyproject.toml").touch()
    assert run_python(USE_SOURCES.format(line=""), checkout, STREAMBN_KERNELS="") == ""
    said = run_python(USE_SOURCES.format(line=LEARN), checkout, STREAMBN_KERNELS="")
    assert said.count("RuntimeWarning: streambn is imported from its sources in") == 1
    assert "pip install -e ." in said
    code = USE_SOURCES.format(line=LEARN)
    assert run_python(code, checkout, STREAMBN_KERNELS="reference") == ""


def test_installed_package_without_kernels_does_not_warn(tmp_path: Path) -> None:
    code = USE_SOURCES.format(line=f"{LEARN}; assert streambn.kernels.active == 'reference'")
    assert run_python(code, copy_sources(tmp_path), STREAMBN_KERNELS="") == ""


# ---------------------------------------------------------------------- the wheel


def test_versions_and_extras_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == streambn.__version__
    extras = ["bench", "cli", "dev", "kafka", "ray", "river", "sklearn", "spark", "test"]
    assert sorted(project["optional-dependencies"]) == extras
    names = {d.split(">")[0] for d in project["dependencies"]}
    assert names == {"numpy", "pyarrow", "msgspec", "filelock"}
    assert f"## {streambn.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_installed_package_is_complete() -> None:
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


def test_sources_name_no_path_of_a_machine() -> None:
    for path in [*(ROOT / "streambn").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        text = path.read_text()
        assert "/home/" not in text
        assert "/root/" not in text
