"""The CSV files that Python packages ship: each is read right, or refused with the remedy.

pandas is the oracle, with the options that a person who looks at the file would give it.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from streambn import StreamBNError
from streambn.io import CsvOptions, Source, open_reader

PACKAGES = ["statsmodels", "sklearn", "vega_datasets", "gapminder", "palmerpenguins", "river"]
FEWEST = 50
# Files with another delimiter than a comma.
DELIMITERS = {"datasets/anes96/anes96.csv": "\t", "datasets/modechoice/modechoice.csv": ";"}
# Files that no option reads: several spaces stand between two values, or rows have other numbers
# of values. The message says what to do with the file.
BY_HAND = ["tr -s", "Mend the line"]
# What an error advises, and what it means to streambn and to pandas.
ADVICE = {
    r"--no-header": lambda _: {"header": False},
    r"--delimiter '(.)'": lambda found: {"delimiter": found[1]},
    r"--skip-lines (\d+)": lambda found: {"skip_lines": int(found[1])},
}


def folder(package: str) -> Path | None:
    found = importlib.util.find_spec(package)
    return None if found is None or found.origin is None else Path(found.origin).parent


def files() -> list[Any]:
    cases = []
    for package in PACKAGES:
        root = folder(package)
        if root is None:
            missing = pytest.mark.skip(reason=f"needs {package}: pip install 'streambn[test]'")
            cases.append(pytest.param(Path(package), id=package, marks=missing))
            continue
        for path in sorted(path for path in root.rglob("*.csv*") if path.is_file()):
            if path.suffix not in {".csv", ".gz"}:
                continue
            # Results of the packages' own tests are many, and alike.
            marks = [pytest.mark.long] if "tests" in path.parts else []
            name = path.relative_to(root.parent).as_posix()
            cases.append(pytest.param(path, id=name, marks=marks))
    return cases


def refused(path: Path, options: dict[str, Any]) -> str | None:
    """Return the message with which a file is refused; None: it is read."""
    try:
        for _ in open_reader(Source(str(path)), csv=CsvOptions(**options)):
            pass
    except StreamBNError as error:
        return str(error)
    return None


def advised(message: str) -> dict[str, Any]:
    """Return the options that a message gives."""
    options: dict[str, Any] = {}
    for pattern, meaning in ADVICE.items():
        if (found := re.search(pattern, message)) is not None:
            options |= meaning(found)
    return options


@pytest.mark.parametrize("path", files())
def test_a_file_is_read_right_or_refused_with_the_remedy(path: Path) -> None:
    options: dict[str, Any] = {}
    while (refusal := refused(path, options)) is not None:
        assert "damaged" not in refusal
        if any(remedy in refusal for remedy in BY_HAND):
            return
        advice = advised(refusal)
        assert advice, refusal
        assert not advice.items() <= options.items(), f"{refusal} was done already"
        options |= advice
    table = open_reader(Source(str(path)), csv=CsvOptions(**options)).read_all()
    usual = next((d for name, d in DELIMITERS.items() if path.as_posix().endswith(name)), ",")
    expected = pd.read_csv(
        path,
        sep=options.get("delimiter", usual),
        header=None if options.get("header") is False else 0,
        skiprows=options.get("skip_lines", 0),
    )
    assert table.shape == expected.shape
    assert_same_numbers(table, expected)


def assert_same_numbers(table: pa.Table, expected: pd.DataFrame) -> None:
    for index, name in enumerate(table.column_names):
        ours, theirs = table.column(index), expected.iloc[:, index]
        is_number = pa.types.is_integer(ours.type) or pa.types.is_floating(ours.type)
        numeric = pd.api.types.is_numeric_dtype(theirs) and not pd.api.types.is_bool_dtype(theirs)
        # pandas calls a column without values a float.
        assert is_number == numeric or theirs.isna().all(), name
        if is_number:
            np.testing.assert_allclose(
                ours.cast(pa.float64()).to_numpy(), theirs.to_numpy(np.float64), rtol=1e-15
            )


def test_the_collection_has_enough_files() -> None:
    for package in PACKAGES:
        if folder(package) is None:
            pytest.skip(f"needs {package}: pip install 'streambn[test]'")
    assert sum("tests" not in case.values[0].parts for case in files()) >= FEWEST
