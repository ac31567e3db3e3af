"""The rooms of the package: which may import which, and what each hands on."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import streambn

ROOT = Path(__file__).parent.parent
PACKAGE = Path(streambn.__file__).parent

# The lowest floor first. A module imports its own room and those before it, never a later one.
FLOORS = [
    "_lazy",
    "_credentials",
    "_messages",
    "errors",
    "kernels",
    "accumulators",
    "policies",
    "options",
    "arrow",
    "statistics",
    "standardize",
    "by_row",
    "row_transform",
    "array_transform",
    "learn_and_transform",
    "snapshot",
    "io",
    "_repr",
    "_transformer",
    "normalizer",
    "stored",
    "online",
    "testing",
    "parquet",
    "jobs",
    "cli",
]
# The floors inside kernels/. All of them but the two implementations may be imported from above.
KERNELS = [
    "interface",
    "moments",
    "exact",
    "rational",
    "recursion",
    "rows",
    "series",
    "bitmaps",
    "flatten",
    "doubledouble",
    "reference",
    "native",
]


class Import(NamedTuple):
    """One module that a file uses, and the names that it takes from it."""

    module: str
    names: tuple[str, ...]


def uses(path: Path) -> Iterator[Import]:
    """Find what a file imports, at once or lazily, and what it reads from modules of streambn."""
    tree = ast.parse(path.read_text())
    aliases = {"streambn": "streambn", "sbn": "streambn"}
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (Import(alias.name, ()) for alias in node.names)
            case ast.ImportFrom(level=0, module=str(module)):
                names = tuple(alias.name for alias in node.names)
                yield Import(module, names)
                if module == "streambn":
                    aliases |= {alias.asname or alias.name: f"streambn.{alias.name}"
                                for alias in node.names if alias.name in FLOORS}  # fmt: skip
            case ast.ImportFrom():
                assert path.is_relative_to(ROOT / "adapters"), f"{path.name} has a relative import"
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Name(id="lazy_module"), args=[ast.Constant(value=module)]),
            ):
                yield Import(module, ())
                aliases[name] = module
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in aliases:
                yield Import(aliases[name], (attribute,))


def own_uses(path: Path) -> Iterator[Import]:
    """Find the uses of streambn itself; a name of the root is a use of the module it is from."""
    for module, names in uses(path):
        if module == "streambn":
            for name in names:
                if name in streambn._HOMES:
                    yield Import(f"streambn.{streambn._HOMES[name]}", (name,))
                elif name not in {"__version__", "__file__", "__name__"}:
                    yield Import(f"streambn.{name}", ())
        elif module.split(".")[0] == "streambn" and not is_adapter(module):
            yield Import(module, names)


def is_adapter(module: str) -> bool:
    return module.split(".")[:2] == ["streambn", "adapters"]


def sources(folder: Path) -> list[Path]:
    return [
        p for p in sorted(folder.rglob("*.py")) if "adapters" not in p.relative_to(folder).parts
    ]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def by_path(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda p: str(p.relative_to(p.parents[1])))


ROOMS = [path for path in sources(PACKAGE) if room_of(path) != "__init__"]
ADAPTERS = sorted((ROOT / "adapters").rglob("*.py"))


def test_every_module_has_a_floor() -> None:
    assert {room_of(path) for path in ROOMS} == set(FLOORS)


@by_path(ROOMS)
def test_no_module_imports_a_higher_floor(path: Path) -> None:
    room = room_of(path)
    for module, _ in own_uses(path):
        imported = module.split(".")[1]
        assert FLOORS.index(imported) <= FLOORS.index(room), f"{room} imports {module}"


@by_path(sources(PACKAGE / "kernels"))
def test_no_kernel_imports_a_higher_one(path: Path) -> None:
    room = path.relative_to(PACKAGE / "kernels").parts[0].removesuffix(".py")
    for module, _ in own_uses(path):
        if room != "__init__" and module.startswith("streambn.kernels."):
            imported = module.split(".")[2]
            assert KERNELS.index(imported) <= KERNELS.index(room), f"{room} imports {imported}"


@by_path(ROOMS)
def test_rooms_use_only_what_others_export(path: Path) -> None:
    for module, names in own_uses(path):
        _, room, *inside = module.split(".")
        if room == room_of(path):
            continue
        if room != "kernels":
            assert not inside, f"import from streambn.{room}, not from {module}"
        exported = importlib.import_module(module).__all__
        assert set(names) <= {*exported, *KERNELS}, f"{module} does not export {names}"


@by_path(ROOMS)
def test_adapters_are_used_by_commands_and_lazily(path: Path) -> None:
    used = {module for module, _ in uses(path) if is_adapter(module)}
    assert not used or room_of(path) == "cli"
    imports = [node for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
    assert not any("streambn.adapters" in ast.unparse(node) for node in imports)


@by_path(ADAPTERS)
def test_adapters_use_public_names_only(path: Path) -> None:
    for module, names in uses(path):
        if module.split(".")[0] == "streambn":
            # What runs jobs on files needs their rooms, which are public for that.
            files = {"streambn.io", "streambn.jobs"} if path.parent != ROOT / "adapters" else set()
            assert module in {"streambn", "streambn.errors", "streambn.testing"} | files
            assert set(names) <= set(importlib.import_module(module).__all__)


@by_path([*ROOMS, *ADAPTERS])
def test_no_import_stands_inside_a_function(path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                assert not isinstance(node, ast.Import | ast.ImportFrom), (
                    f"{path.name}:{node.lineno}: import at the top, or by lazy_module"
                )


def modules() -> list[str]:
    # The path of an editable install has the root of the checkout as well.
    names = {m.name for m in pkgutil.walk_packages([str(PACKAGE)], "streambn.")}
    return sorted({"streambn", *names} - {"streambn.kernels.native._core", "streambn.adapters"})


@pytest.mark.parametrize("name", modules())
def test_all_is_exact(name: str) -> None:
    if name == "streambn.kernels.native":
        absent = "needs the compiled kernels: install streambn where there is a C++ compiler"
        pytest.importorskip(name, reason=absent, exc_type=ImportError)
    for host, package in (("ray", "ray[data]"), ("spark", "pyspark")):
        if name.startswith(f"streambn.adapters.{host}"):
            absent = f"needs {package.partition('[')[0]}: pip install '{package}'"
            pytest.importorskip(name, reason=absent, exc_type=ImportError)
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for exported in module.__all__:
        assert hasattr(module, exported)
    path = Path(module.__file__)
    public = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            public.add(node.name)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{name}."):
            public |= {alias.name for alias in node.names}
    public = {name for name in public if not name.startswith("_")}
    assert public <= set(module.__all__), "public by name, but not in __all__"
