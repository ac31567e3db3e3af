"""Spark sessions for tests: their settings, and processes with a session of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.driver.memory": "1g",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.log.level": "OFF",
}


def needs_java() -> None:
    """Skip a test where Spark cannot start."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else "java"
    if shutil.which(java) is None:
        pytest.skip("needs Java 17: install a JDK and set JAVA_HOME")


def run_script(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start a Python process that runs code with a session of its own."""
    needs_java()
    prelude = f"SETTINGS = {SETTINGS!r}\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, **environment},
    )
