"""The options that choose what does the work of a job: this process, or Spark."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click

from streambn._lazy import lazy_module
from streambn.cli.app import Option, OptionGroup
from streambn.errors import StreamBNError
from streambn.io import PIPE
from streambn.jobs import Executor

# A job on Spark imports pyspark. No other job pays for that.
spark = lazy_module("streambn.adapters.spark")

__all__ = ["ENGINE_OPTIONS", "EngineOptions"]


class EngineOptions(NamedTuple):
    """What does the work of a job; the fields are the options."""

    engine: str
    spark_master: str | None

    def check(self, inputs: Sequence[str], output: str | None = None) -> None:
        """Refuse what the engine cannot do.

        Raises
        ------
        click.UsageError
            Options or arguments do not fit the engine.
        """
        if self.engine == "local":
            if self.spark_master is not None:
                raise click.UsageError("--spark-master has no meaning without --engine spark.")
            return
        if PIPE in inputs:
            raise click.UsageError(
                "--engine spark cannot read standard input: its workers read files. Save the data "
                "to a file, or do without --engine."
            )
        if output == PIPE:
            raise click.UsageError(
                "--engine spark cannot write to standard output: its workers write files. Name a "
                "folder or a file, or do without --engine."
            )
        given = click.get_current_context().get_parameter_source("threads")
        if given is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                "--threads has no meaning with --engine spark, whose master says how many tasks "
                "run: --spark-master 'local[4]'."
            )

    @contextlib.contextmanager
    def executor(self) -> Iterator[Executor | None]:
        """Start the engine, and stop it when the block ends; None is this process."""
        if self.engine == "local":
            yield None
            return
        try:
            open_session = spark.open_session
        except ImportError as error:
            raise StreamBNError(
                "--engine spark needs its extra: pip install 'streambn[spark]'"
            ) from error
        with open_session(self.spark_master) as session:
            executor: Executor = spark.SparkExecutor(session)
            yield executor


_engine_option = functools.partial(Option, section="Engine options")
ENGINE_OPTIONS = OptionGroup(
    "engine",
    EngineOptions,
    [
        _engine_option(
            ["--engine"],
            type=click.Choice(["local", "spark"]),
            default="local",
            help="What does the work: this process (the default), or Apache Spark, whose workers "
            "must see the inputs and outputs by the same paths. Results do not depend on it.",
        ),
        _engine_option(
            ["--spark-master"],
            metavar="MASTER",
            help="With --engine spark, its master, such as 'local[4]', spark://host:7077 or yarn, "
            "or the sc:// URL of a server. Default: MASTER, SPARK_REMOTE or Spark's configuration, "
            "else all cores of this machine.",
        ),
    ],
)
