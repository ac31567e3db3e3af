"""The `streambn` command group, and the click classes that its commands share."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click

import streambn as sbn
from streambn._lazy import lazy_module
from streambn.errors import InvalidValueError, StreamBNError

# `streambn --help` takes half the time without them.
pyarrow = lazy_module("pyarrow")
kernels = lazy_module("streambn.kernels")

__all__ = [
    "COMMANDS",
    "EXIT_CODES",
    "Command",
    "Option",
    "OptionGroup",
    "describe_error",
    "streambn",
    "usage_errors",
    "version_option",
    "write_flag",
]

EXIT_CODES = {
    0: "The command succeeded.",
    1: "It failed: an input cannot be read, an output cannot be written, or values are invalid.",
    2: "The command line is wrong.",
    3: "The columns of the data do not match the statistics.",
    4: "A check did not pass (reserved).",
    5: "A statistics file is corrupt.",
    129: "The terminal was closed (SIGHUP).",
    130: "Interrupted (Ctrl-C).",
    141: "The reader of the output closed the pipe, as `head` does.",
    143: "Terminated (SIGTERM).",
}

# Each command by name: its module, and its summary in `streambn --help`.
COMMANDS = {
    "fit": ("streambn.cli.fit", "Learn statistics of columns and write them to a file."),
    "apply": ("streambn.cli.apply", "Normalize data with a statistics file."),
    "normalize": ("streambn.cli.apply", "Fit on data, then normalize the same data."),
    "merge": ("streambn.cli.statistics", "Merge statistics files into one."),
    "show": ("streambn.cli.statistics", "Print a statistics file."),
    "demo": ("streambn.cli.demo", "Walk through fit, freeze and apply on real data."),
}

# The flags of the library's arguments. Arguments without a flag, such as `data`, are not here.
_FLAGS = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        *("adjust", "affine", "alpha", "at", "batch_rows", "center", "clip", "columns", "com"),
        *(
            "ddof",
            "decay",
            "dtype",
            "eps",
            "exclude",
            "format",
            "halflife",
            "ignore_na",
            "inf",
            "initial",
            "min_count",
            "momentum",
        ),
        *("nan", "null_time", "overwrite", "resume", "scale", "span", "threads", "time", "weights"),
    )
} | {
    **{"csv_types": "--csv-type", "header": "--header", "null_values": "--null-values"},
    **{"delimiter": "--delimiter", "decimal": "--decimal", "thousands": "--thousands"},
    **{"skip_lines": "--skip-lines", "encoding": "--encoding", "schema": "--union-by-name"},
}


def write_flag(argument: str, value: object) -> str:
    """Return an argument of the library as the shell writes it."""
    flag = _FLAGS.get(argument, f"--{argument.replace('_', '-')}")
    if value is None or value is True or argument == "schema":
        return flag
    return f"{flag} {value if isinstance(value, str) else type(value).__name__.lower()}"


def describe_error(error: StreamBNError, flags: Mapping[str, str] = _FLAGS) -> str:
    """Return the message of an error, after the flag of the argument that caused it."""
    flag = flags.get(error.argument or "")
    return f"{flag}: {error}" if flag else str(error)


@contextlib.contextmanager
def usage_errors(**flags: str) -> Iterator[None]:
    """Report an invalid value as a wrong command line.

    The library raises the same exception for an argument and for a value in the data.

    Parameters
    ----------
    **flags : str
        Flags by argument, where they differ from the usual ones.
    """
    try:
        yield
    except InvalidValueError as error:
        raise click.UsageError(describe_error(error, _FLAGS | flags)) from error


class Option(click.Option):
    """An option that belongs to a section of the help."""

    def __init__(self, *declarations: Any, section: str = "Options", **attributes: Any) -> None:
        super().__init__(*declarations, **attributes)
        self.section = section


class OptionGroup(NamedTuple):
    """Options that a command receives as one value."""

    keyword: str  # the parameter of the command
    build: Callable[..., Any]  # makes the value from the options, which are keywords
    options: Sequence[Option]


class Command(click.Command):
    """A command with groups of options, sections in its help, and examples at the end of it."""

    def __init__(
        self,
        *arguments: Any,
        groups: Sequence[OptionGroup] = (),
        examples: Sequence[str] = (),
        **attributes: Any,
    ) -> None:
        super().__init__(*arguments, **attributes)
        self._groups, self._examples = groups, examples
        self.params += [option for group in groups for option in group.options]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        # Arrow would answer Ctrl-C with an exception of its own.
        pyarrow.enable_signal_handlers(False)
        # The modules loaded so far stay: see `streambn.cli.main.main`.
        gc.freeze()
        gc.enable()
        ctx.obj["output"] = ctx.params.get("output")
        for group in self._groups:
            values = {option.name: ctx.params.pop(option.name) for option in group.options}
            ctx.params[group.keyword] = group.build(**values)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                section = getattr(parameter, "section", "Options")
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, one a line."""
        del ctx
        with formatter.section("Examples"):
            formatter.write("".join(f"  {example}\n" for example in self._examples))


class _LazyGroup(click.Group):
    """A group that imports the module of a command when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        del ctx
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of this name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries of the commands, which are known without an import."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


def _print_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    del option
    if wanted:
        click.echo(
            f"streambn {sbn.__version__}, {kernels.describe()}; pyarrow {pyarrow.__version__}"
        )
        context.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and the kernels in use.",
)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@version_option
def streambn() -> None:
    """Batch normalization's running statistics for any data: fit, freeze, apply.

    To see it at work, run `streambn demo`.
    """
