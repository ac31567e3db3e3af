"""`streambn demo`: every figure in it, computed again by pandas."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cli_process import CO2, ENV

from streambn.cli.demo import story


@pytest.fixture(scope="module")
def text() -> str:
    """The demo without line breaks."""
    return " ".join("\n".join(story()).split())


@pytest.fixture(scope="module")
def weeks() -> pd.Series:
    return pd.read_csv(CO2, parse_dates=["date"]).set_index("date")["co2"]


@pytest.fixture(scope="module")
def z(weeks: pd.Series) -> dict[str, pd.Series]:
    early = weeks[:"1990"]
    ewm = early.ewm(halflife=52)
    return {
        "Welford": (weeks - early.mean()) / early.std(ddof=0),
        "EMA": (weeks - ewm.mean().iloc[-1]) / ewm.std(bias=True).iloc[-1],
    }


def by_year(values: pd.Series) -> pd.Series:
    return values.groupby(values.index.year).mean()


def test_data(text: str, weeks: pd.Series) -> None:
    means = by_year(weeks)
    assert (
        f"{len(weeks):,} weeks from {weeks.index[0]:%Y-%m-%d} to {weeks.index[-1]:%Y-%m-%d}, "
        f"{weeks.isna().sum()} of them without a value. The yearly mean rises from "
        f"{means.iloc[0]:.1f} ppm in {means.index[0]} to {means.iloc[-1]:.1f} ppm in "
        f"{means.index[-1]}."
    ) in text


def test_statistics(text: str, weeks: pd.Series) -> None:
    early = weeks[:"1990"]
    ewm = early.ewm(halflife=52)
    mean, std = ewm.mean().iloc[-1], ewm.std(bias=True).iloc[-1]
    counts = f"{early.count():,} {early.isna().sum()}"
    assert f"Welford {counts} {early.mean():.2f} {early.std(ddof=0):.2f} " in text
    assert f"EMA(halflife=52) {counts} {mean:.2f} {std:.2f} " in text
    assert f"its mean is {mean - early.mean():.2f} ppm higher" in text
    # "its standard deviation is little more than the seasons of recent years"
    seasons = (weeks["1988":"1990"] - weeks["1988":"1990"].rolling(52).mean()).std()
    assert seasons < std < 2 * seasons


def test_missing_values_stay_missing(text: str, weeks: pd.Series, z: dict[str, pd.Series]) -> None:
    assert weeks.isna().sum() == 59
    assert "The 59 missing values stay missing." in text
    early = z["Welford"][:"1990"]
    expected = f"mean {abs(early.mean()):.4f} and standard deviation {early.std(ddof=0):.4f}."
    assert f"the weeks of the fit get {expected}" in text


def test_drift(text: str, weeks: pd.Series, z: dict[str, pd.Series]) -> None:
    means = {name: by_year(values) for name, values in z.items()}
    rows = re.findall(r"(\d{4}) (\d+\.\d) ([+-]\d+\.\d\d) ([+-]\d+\.\d\d)", text)
    assert [int(row[0]) for row in rows] == [1991, 1994, 1997, 2000, 2001]
    for year, *figures in rows:
        assert figures == [
            f"{by_year(weeks)[int(year)]:.1f}",
            f"{means['Welford'][int(year)]:+.2f}",
            f"{means['EMA'][int(year)]:+.2f}",
        ]
    assert (
        f"the mean of 2001 is {means['Welford'][2001]:.1f} standard deviations above the weeks of "
        f"the fit, and {means['EMA'][2001]:.1f} above the most recent of them."
    ) in text


def test_thaw(text: str, weeks: pd.Series, z: dict[str, pd.Series]) -> None:
    ewm = weeks.ewm(halflife=52)
    mean, std = ewm.mean().iloc[-1], ewm.std(bias=True).iloc[-1]
    assert f"Its mean is now {mean:.2f} ppm" in text
    assert f"the z of 2001 is {by_year((weeks - mean) / std)[2001]:+.2f}." in text
    assert f"still gives {by_year(z['EMA'])[2001]:+.2f}." in text


def test_it_fits_a_terminal() -> None:
    lines = list(story())
    assert max(map(len, lines)) <= 84
    assert len(lines) < 50
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("data", [None, "my data.csv"])
def test_the_commands_at_the_end_run(tmp_path: Path, data: str | None, weeks: pd.Series) -> None:
    env = {**ENV, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    (tmp_path / "bin").mkdir()
    streambn = tmp_path / "bin" / "streambn"
    streambn.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m streambn.cli "$@"\n')
    streambn.chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()

    def shell(command: str) -> str:
        return subprocess.run(
            command, shell=True, cwd=folder, env=env, check=True, capture_output=True, text=True
        ).stdout

    printed = shell(f"streambn demo --save-data '{data}'" if data else "streambn demo")
    assert printed == "".join(f"{line}\n" for line in story(data))
    commands = [line.strip() for line in printed.partition("Try it:")[2].splitlines() if line]
    assert [command.split()[1] for command in commands] == (
        ["fit", "show", "apply"] if data else ["demo", "fit", "show", "apply"]
    )
    for command in commands:
        shell(command)
    assert (folder / (data or "co2.csv")).read_bytes() == CO2.read_bytes()
    out = pd.read_parquet(folder / "normalized.parquet")["co2"].to_numpy()
    ewm = weeks.ewm(halflife=52)
    expected = (weeks - ewm.mean().iloc[-1]) / ewm.std(bias=True).iloc[-1]
    np.testing.assert_allclose(out, expected.to_numpy(), rtol=1e-9, atol=1e-12)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [data or "co2.csv", "normalized.parquet", "stats.json"]
    )
