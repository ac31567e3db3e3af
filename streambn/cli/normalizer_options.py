"""The options of `fit` and `normalize` that describe a normalizer, and the normalizer they make."""

from __future__ import annotations

import csv
import functools
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import click

import streambn as sbn
from streambn.cli.app import Option, OptionGroup, usage_errors
from streambn.policies import Policy

__all__ = ["NORMALIZER_OPTIONS", "NormalizerOptions", "number_or_text"]

_POLICIES: dict[str, Callable[..., Policy]] = {
    "exact": sbn.Exact,
    "welford": sbn.Welford,
    "ema": sbn.EMA,
    "batch-ema": sbn.BatchEMA,
}
# A policy takes exactly one of its rates.
_RATES = {"ema": ("alpha", "halflife", "span", "com"), "batch-ema": ("momentum", "decay")}
# The options that only one policy has, and the arguments of its constructor.
_EMA = (*_RATES["ema"], "adjust", "ignore_na", "time", "null_time")
_BATCH_EMA = (*_RATES["batch-ema"], "batch_rows", "batch_ddof", "initial")
_POLICY_ARGUMENTS = {
    **{name: ("ema", name) for name in _EMA},
    **{name: ("batch-ema", name.replace("batch_ddof", "ddof")) for name in _BATCH_EMA},
}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def number_or_text(text: str) -> int | float | str:
    """Return the number that a text spells, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _numbers(text: str, count: int) -> tuple[float, ...] | None:
    """Return comma-separated numbers; None if the text is not `count` of them."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        return None
    return numbers if len(numbers) == count else None


class _NumberOrDuration(click.ParamType[int | float | str]):
    """A number, or text for the policy to read as a duration."""

    name = "NUMBER|DURATION"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | float | str:
        del param, ctx
        return number_or_text(value)


class _NumbersOrNone(click.ParamType[Any]):
    """Numbers, or the word none, which stays a word: None means that the option was not given."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._count = len(name.split(","))

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        numbers = _numbers(value, self._count)
        if value != "none" and numbers is None:
            self.fail(f"{value!r} is neither {self.name} nor none.", param, ctx)
        return value if numbers is None else numbers if len(numbers) > 1 else numbers[0]


class _Affine(click.ParamType[dict[str, Any]]):
    """Gammas and betas: of one column, or of all columns in a file."""

    name = "COLUMN=GAMMA,BETA|FILE"

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, Any]:
        if os.path.isfile(value):
            try:
                with open(value, encoding="utf-8") as file:
                    pairs = json.load(file)
            except (ValueError, OSError) as error:
                self.fail(f"{value}: {error}", param, ctx)
            if not isinstance(pairs, dict):
                self.fail(f'{value} must hold {{"column": [gamma, beta], ...}}.', param, ctx)
            return pairs
        column, equals, text = value.rpartition("=")
        pair = _numbers(text, 2)
        if not equals or pair is None:
            self.fail(f"{value!r} is neither COLUMN=GAMMA,BETA nor a JSON file.", param, ctx)
        return {column: pair}


class NormalizerOptions(NamedTuple):
    """The options that describe a new normalizer."""

    given: dict[str, Any]  # on the command line; for others the library's defaults hold

    @classmethod
    def of(cls, **values: Any) -> NormalizerOptions:
        """Keep the options that were given."""
        return cls({name: value for name, value in values.items() if value not in (None, ())})

    def names(self, option: str) -> list[str] | None:
        """Return the names that --columns or --exclude lists; None: the option was not given.

        A name with a comma or a space at its end is quoted as in a CSV file.
        """
        if option not in self.given:
            return None
        found = []
        for row in csv.reader(self.given[option], skipinitialspace=True):
            found += [name for name in row if name]
        return found

    def normalizer(self, *, online: bool = False) -> sbn.Normalizer:
        """Make the normalizer.

        Parameters
        ----------
        online : bool
            Whether its statistics are read after every batch, which takes longer with exact sums.

        Raises
        ------
        click.UsageError
            An option is invalid, or belongs to another policy than the one chosen.
        """
        options = dict(self.given)
        # Of 16 columns of 3M rows in Parquet, exact takes 4 % more of the time of `fit`.
        usual = "welford" if online or "weights" in options else "exact"
        policy = options.pop("policy", usual)
        arguments = {}
        for name in options.keys() & _POLICY_ARGUMENTS.keys():
            owner, argument = _POLICY_ARGUMENTS[name]
            if owner != policy:
                raise click.UsageError(
                    f"{_flag(name)} belongs to --policy {owner}, but the policy is {policy}."
                )
            value = options.pop(name)
            arguments[argument] = None if value == "none" else value
        rates = _RATES.get(policy, ())
        if rates and len(arguments.keys() & {*rates}) != 1:
            flags = ", ".join(map(_flag, rates))
            raise click.UsageError(f"--policy {policy} takes exactly one of {flags}.")
        options |= {"columns": self.names("columns"), "exclude": self.names("exclude")}
        if options.pop("union_by_name", False):
            options["schema"] = "union"
        affine = options.pop("affine", ())
        options["affine"] = {c: pair for pairs in affine for c, pair in pairs.items()} or None
        with usage_errors(ddof="--batch-ddof"):
            made = _POLICIES[policy](**arguments)
        with usage_errors():
            return sbn.Normalizer(made, **options)


_statistics = functools.partial(Option, section="Statistics options")
_ema = functools.partial(Option, section="Options of --policy ema (exactly one of the first four)")
_batch_ema = functools.partial(
    Option, section="Options of --policy batch-ema (exactly one of the first two)"
)
_normalization = functools.partial(Option, section="Normalization options")
_reactions = click.Choice(["ignore", "raise", "propagate"])

NORMALIZER_OPTIONS = OptionGroup(
    "options",
    NormalizerOptions.of,
    [
        _statistics(
            ["--policy"],
            type=click.Choice([*_POLICIES]),
            help="How rows are weighted. exact (the default): all alike, and the result does not "
            "depend on the order of rows, files and batches in any bit. welford: all alike, up to "
            "rounding; the default with --weights and --online. ema: newer rows more. batch-ema: "
            "newer batches more.",
        ),
        _statistics(
            ["--columns"],
            multiple=True,
            metavar="A,B,S.F",
            help="Columns to learn; S.F is a field of a struct, and 'sensor_*' a pattern. A name "
            "with a comma stands in double quotes. Lists of one length are vectors if they are "
            "named. Default: every numeric column. Repeatable.",
        ),
        _statistics(
            ["--exclude"],
            multiple=True,
            metavar="A,'B_*'",
            help="Columns to leave alone: names and patterns, as for --columns. Repeatable.",
        ),
        _statistics(
            ["--union-by-name"],
            is_flag=True,
            default=None,
            help="Let columns appear in later inputs and be absent in some. An absent column "
            "counts as null.",
        ),
        _statistics(
            ["--weights"],
            metavar="COLUMN",
            help="Column of sample weights, for welford and ema. A row of weight 0 is ignored.",
        ),
        _statistics(
            ["--nan"], type=_reactions, help="What to do about NaN values. Default: ignore."
        ),
        _statistics(
            ["--inf"], type=_reactions, help="What to do about infinite values. Default: raise."
        ),
        _statistics(
            ["--min-count"],
            type=int,
            metavar="N",
            help="A column with fewer than N values is not known yet: it normalizes to null. "
            "Default: 0.",
        ),
        _ema(["--alpha"], type=float, help="Weight of the newest row."),
        _ema(
            ["--halflife"],
            type=_NumberOrDuration(),
            help="Rows after which the weight of a row has halved. With --time, a duration such as "
            "7d, 1h30min, 250ms or P7D, or a number if the times are numbers.",
        ),
        _ema(["--span"], type=float, help="Span: alpha = 2 / (span + 1)."),
        _ema(["--com"], type=float, help="Centre of mass: alpha = 1 / (1 + com)."),
        _ema(
            ["--adjust/--no-adjust"],
            default=None,
            help="Whether to divide by the sum of the weights, as in pandas. Default: adjust.",
        ),
        _ema(
            ["--ignore-na"],
            is_flag=True,
            default=None,
            help="Let weights decay at values only, not at missing ones.",
        ),
        _ema(
            ["--time"],
            metavar="COLUMN",
            help="Column of event times: timestamps, dates or numbers. Weights then decay with "
            "time, in whatever order the rows come.",
        ),
        _ema(
            ["--null-time"],
            type=click.Choice(["raise", "skip"]),
            help="What to do about a row without an event time. Default: raise.",
        ),
        _batch_ema(
            ["--momentum"],
            type=_NumbersOrNone("NUMBER"),
            metavar="NUMBER|none",
            help="Weight of the new batch, as in PyTorch. none: average all batches.",
        ),
        _batch_ema(["--decay"], type=float, help="Weight of the old value, as in Keras."),
        _batch_ema(
            ["--batch-rows"],
            type=int,
            metavar="N",
            help="Rows in a batch. Default: a record batch of Arrow, 65,536 rows of Parquet, about "
            "2 MB of CSV.",
        ),
        _batch_ema(
            ["--batch-ddof"],
            type=int,
            help="The variance of a batch has the divisor n - ddof. Default: 1.",
        ),
        _batch_ema(
            ["--initial"],
            type=_NumbersOrNone("MEAN,VAR"),
            metavar="MEAN,VAR|none",
            help="Initial mean and variance. Default: 0,1. none: start from the first batch, "
            "without bias.",
        ),
        _normalization(
            ["--eps"], type=float, help="Added to the variance before the square root. Default: 0."
        ),
        _normalization(
            ["--ddof"], type=int, help="The variance has the divisor n - ddof. Default: 0."
        ),
        _normalization(
            ["--center/--no-center"], default=None, help="Whether to subtract the mean."
        ),
        _normalization(
            ["--scale/--no-scale"],
            default=None,
            help="Whether to divide by the standard deviation.",
        ),
        _normalization(["--clip"], type=float, help="Clamp results to [-CLIP, CLIP]."),
        _normalization(
            ["--affine"],
            type=_Affine(),
            multiple=True,
            help="Map a result z to z * gamma + beta. FILE is a JSON object from columns to "
            "[gamma, beta]. Repeatable.",
        ),
    ],
)
