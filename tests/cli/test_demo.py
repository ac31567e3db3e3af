"""`streambn demo`: every figure that it tells, found again by other means."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import streambn as sbn
from streambn.cli import demo

CO2 = Path(sbn.__file__).parent / "cli" / "data" / "co2.csv"
ENV = {**os.environ, "PYTHONWARNINGS": "error"}


@pytest.fixture(scope="module")
def told() -> str:
    """The story on one line, so that no line break matters."""
    return " ".join("\n".join(demo.story()).split())


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


def test_the_data(told: str, weeks: pd.Series) -> None:
    means = by_year(weeks)
    assert (
        f"{len(weeks):,} weeks from {weeks.index[0]:%Y-%m-%d} to {weeks.index[-1]:%Y-%m-%d}, of "
        f"which {weeks.isna().sum()} have no value. It drifts: the mean of {means.index[0]} is "
        f"{means.iloc[0]:.1f} ppm, that of {means.index[-1]} is {means.iloc[-1]:.1f}, "
        f"{means.iloc[-1] - means.iloc[0]:+.1f}."
    ) in told


def test_the_two_statistics(told: str, weeks: pd.Series) -> None:
    early = weeks[:"1990"]
    ewm = early.ewm(halflife=52)
    mean, std = ewm.mean().iloc[-1], ewm.std(bias=True).iloc[-1]
    seen = f"{early.count():,} {early.isna().sum()}"
    assert f"Welford {seen} {early.mean():.2f} {early.std(ddof=0):.2f} " in told
    assert f"EMA(halflife=52) {seen} {mean:.2f} {std:.2f} " in told
    assert f"sets their means {mean - early.mean():.2f} ppm apart" in told
    assert std < early.std(ddof=0)  # "its deviation is the smaller one"
    # "little more than the seasons of the last years"
    seasons = (weeks["1988":"1990"] - weeks["1988":"1990"].rolling(52).mean()).std()
    assert seasons < std < 2 * seasons


def test_nulls_stay(told: str, weeks: pd.Series, z: dict[str, pd.Series]) -> None:
    assert f"{weeks.isna().sum()} weeks have no value; normalized, 59 have none, the same" in told
    assert weeks.isna().sum() == 59
    early = z["Welford"][:"1990"]
    assert f"has mean {abs(early.mean()):.4f} and deviation {early.std(ddof=0):.4f}." in told


def test_the_drift(told: str, weeks: pd.Series, z: dict[str, pd.Series]) -> None:
    means = {name: by_year(values) for name, values in z.items()}
    rows = re.findall(r"(\d{4}) (\d+\.\d) ([+-]\d+\.\d\d) ([+-]\d+\.\d\d)", told)
    assert [int(row[0]) for row in rows] == [1991, 1994, 1997, 2000, 2001]
    for year, *figures in rows:
        assert figures == [
            f"{by_year(weeks)[int(year)]:.1f}",
            f"{means['Welford'][int(year)]:+.2f}",
            f"{means['EMA'][int(year)]:+.2f}",
        ]
    assert (
        f"2001 lies {means['Welford'][2001]:.1f} deviations above the average of all weeks fitted, "
        f"but {means['EMA'][2001]:.1f} above the level"
    ) in told
    # "has never met such values": even the lowest week of 2001 is above all of them.
    assert z["EMA"]["2001"].min() > z["EMA"][:"1990"].max()


def test_going_on(told: str, weeks: pd.Series, z: dict[str, pd.Series]) -> None:
    ewm = weeks.ewm(halflife=52)
    mean, std = ewm.mean().iloc[-1], ewm.std(bias=True).iloc[-1]
    assert f"its mean is {mean:.2f} ppm" in told
    assert f"its z of 2001 is {by_year((weeks - mean) / std)[2001]:+.2f}." in told
    assert f"it was: {by_year(z['EMA'])[2001]:+.2f}." in told


def test_it_fits_a_terminal() -> None:
    lines = list(demo.story())
    assert max(map(len, lines)) <= 84
    assert len(lines) < 60
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("data", [None, "my data.csv"])
def test_the_commands_work_as_they_are_printed(
    tmp_path: Path, data: str | None, weeks: pd.Series
) -> None:
    env = {**ENV, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    (tmp_path / "bin").mkdir()
    streambn = tmp_path / "bin" / "streambn"
    streambn.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m streambn.cli.main "$@"\n')
    streambn.chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()

    def shell(command: str) -> str:
        return subprocess.run(
            command, shell=True, cwd=folder, env=env, check=True, capture_output=True, text=True
        ).stdout

    told = shell(f"streambn demo --save-data '{data}'" if data else "streambn demo")
    assert told == "".join(f"{line}\n" for line in demo.story(data))
    commands = [line.strip() for line in told.partition("Now you:")[2].splitlines() if line]
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
