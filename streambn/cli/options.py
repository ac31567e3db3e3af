"""The options of the shell, and what those of `fit` mean: from words to a `Normalizer`.

To be imported for ``--help`` too, so nothing here imports Arrow before it is needed.
"""

import contextlib
import functools
import inspect
import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

import streambn as sbn
from streambn.errors import InvalidValueError

if TYPE_CHECKING:
    from streambn.policies import EventTime

__all__ = [
    "CsvTypes",
    "Dtype",
    "FitOptions",
    "Float",
    "Frozen",
    "Inputs",
    "NullTime",
    "Out",
    "PolicyName",
    "Quiet",
    "Reaction",
    "Stats",
    "StatsOut",
    "flag",
    "fresh_normalizer",
    "in_flags",
    "option",
    "parse_csv_types",
    "parse_time",
    "split_columns",
    "taking",
]


class PolicyName(StrEnum):
    """The policies that the shell offers."""

    welford = "welford"
    ema = "ema"
    batch_ema = "batch-ema"
    exact = "exact"


class Reaction(StrEnum):
    """What to do about a NaN or an infinity."""

    ignore = "ignore"
    raise_ = "raise"
    propagate = "propagate"


class NullTime(StrEnum):
    """What to do about a row without an event time."""

    raise_ = "raise"
    skip = "skip"


class Float(StrEnum):
    """The types that normalized values can have."""

    float32 = "float32"
    float64 = "float64"


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Files, quoted globs (** crosses folders), folders (Hive partitions too), here or "
        "behind s3://, gs:// and the like; or - for an Arrow IPC stream on stdin. Parquet, Arrow "
        "IPC and CSV are told apart by content.",
        show_default=False,
    ),
]
Out = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="A file (.parquet, .arrow, .arrows, .csv), a folder, or - for an Arrow IPC stream on "
        "stdout.",
        show_default=False,
    ),
]
StatsOut = Annotated[
    str,
    typer.Option(
        "-o", "--output", metavar="STATS", help="The statistics file to write.", show_default=False
    ),
]
Stats = Annotated[
    str, typer.Argument(metavar="STATS", help="A statistics file.", show_default=False)
]
CsvTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--csv-type",
        metavar="NAME=TYPE",
        help="Type of a CSV column, instead of what its first rows suggest. Repeatable.",
        show_default=False,
    ),
]
Dtype = Annotated[
    Float | None,
    typer.Option(
        help="Type of the results. Unless given, float32 stays and all else becomes float64.",
        show_default=False,
    ),
]
Frozen = Annotated[
    bool, typer.Option("--frozen", help="Write a frozen file, which can be applied but not learn.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing to stderr but an error.")]

# The options that mean something to one policy only, and how its constructor calls them.
_BELONGS = {
    PolicyName.welford: {},
    PolicyName.ema: {
        name: name
        for name in (
            *("alpha", "halflife", "span", "com"),
            *("adjust", "ignore_na", "time", "null_time"),
        )
    },
    PolicyName.batch_ema: {
        "momentum": "momentum",
        "decay": "decay",
        "batch_rows": "batch_rows",
        "batch_ddof": "ddof",
        "initial": "initial",
    },
    PolicyName.exact: {},
}

_STATISTICS = "Statistics"
_EMA = "Statistics: --policy ema (exactly one of the first four)"
_BATCH = "Statistics: --policy batch-ema (exactly one of the first two)"
_NORMALIZATION = "Normalization"


def option(text: str, *names: str, panel: str, metavar: str | None = None) -> Any:
    """Describe an option that is not shown with its default."""
    return typer.Option(
        *names, help=text, rich_help_panel=panel, metavar=metavar, show_default=False
    )


@dataclass(frozen=True)
class FitOptions:
    """What shapes a new normalizer. None means: not given, so the library's default."""

    policy: Annotated[
        PolicyName | None,
        option(
            "How rows count. exact, unless given: all alike, and not a bit depends on their "
            "order, or on where files and batches begin. welford, with --weights or --online: "
            "likewise, but for rounding.",
            panel=_STATISTICS,
        ),
    ] = None
    columns: Annotated[
        list[str] | None,
        option(
            "Columns to keep statistics of; every numeric one unless given. Repeatable; "
            "a struct's field is S.F.",
            panel=_STATISTICS,
            metavar="A,B,S.F",
        ),
    ] = None
    nan: Annotated[
        Reaction | None, option("What to do about NaN; ignore unless given.", panel=_STATISTICS)
    ] = None
    inf: Annotated[
        Reaction | None,
        option("What to do about infinity; raise unless given.", panel=_STATISTICS),
    ] = None
    weights: Annotated[
        str | None,
        option(
            "Column of sample weights, for welford and ema; a row that weighs 0 leaves no trace.",
            panel=_STATISTICS,
            metavar="COLUMN",
        ),
    ] = None
    alpha: Annotated[float | None, option("Weight of the newest row.", panel=_EMA)] = None
    halflife: Annotated[
        str | None,
        option(
            "After so many rows a row's weight is half; or, with --time, after so long: 7d, "
            "1h30min, 250ms, P7D, or a number if the times are numbers.",
            panel=_EMA,
            metavar="NUMBER|DURATION",
        ),
    ] = None
    span: Annotated[float | None, option("As alpha = 2 / (span + 1).", panel=_EMA)] = None
    com: Annotated[
        float | None, option("Centre of mass, as alpha = 1 / (1 + com).", panel=_EMA)
    ] = None
    adjust: Annotated[
        bool | None,
        option("Weights as in pandas; adjusted unless given.", "--adjust/--no-adjust", panel=_EMA),
    ] = None
    ignore_na: Annotated[
        bool | None,
        option("A missing value does not age the others.", "--ignore-na", panel=_EMA),
    ] = None
    time: Annotated[
        str | None,
        option(
            "Column of event times: values age by the time that passed, wherever they stand, and "
            "not by the row. Timestamps, dates or numbers.",
            panel=_EMA,
            metavar="COLUMN",
        ),
    ] = None
    null_time: Annotated[
        NullTime | None,
        option("What to do about a row without a time; raise unless given.", panel=_EMA),
    ] = None
    momentum: Annotated[
        str | None,
        option(
            "Weight of the new batch, as in PyTorch; none: the plain average of all batches.",
            panel=_BATCH,
            metavar="NUMBER|none",
        ),
    ] = None
    decay: Annotated[
        float | None, option("Weight of the old value, as in Keras.", panel=_BATCH)
    ] = None
    batch_rows: Annotated[
        int | None,
        option(
            "Rows to a batch. Unless given, a batch is what the file has as one: a record batch "
            "of Arrow, 65,536 rows of Parquet, about two megabytes of CSV.",
            panel=_BATCH,
        ),
    ] = None
    batch_ddof: Annotated[
        int | None, option("Divisor n - ddof of a batch's variance; 1 unless given.", panel=_BATCH)
    ] = None
    initial: Annotated[
        str | None,
        option(
            "Where the running values start; 0,1 unless given. none: from the first batches, "
            "debiased.",
            panel=_BATCH,
            metavar="MEAN,VAR|none",
        ),
    ] = None
    eps: Annotated[
        float | None, option("Added to the variance before the square root.", panel=_NORMALIZATION)
    ] = None
    ddof: Annotated[
        int | None,
        option("Divisor n - ddof of the variance; 0 unless given.", panel=_NORMALIZATION),
    ] = None
    center: Annotated[
        bool | None,
        option("Subtract the mean, or not.", "--center/--no-center", panel=_NORMALIZATION),
    ] = None
    scale: Annotated[
        bool | None,
        option("Divide by the deviation, or not.", "--scale/--no-scale", panel=_NORMALIZATION),
    ] = None
    clip: Annotated[
        float | None, option("Clamp results to [-CLIP, CLIP].", panel=_NORMALIZATION)
    ] = None
    affine: Annotated[
        list[str] | None,
        option(
            "Afterwards z * gamma + beta: COLUMN=GAMMA,BETA (repeatable), or a JSON object in a "
            "file, from names to pairs.",
            panel=_NORMALIZATION,
            metavar="COL=G,B|FILE",
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """Only what the user gave."""
        return {name: value for name, value in asdict(self).items() if value is not None}


Command = Callable[..., None]


def taking(**groups: type[Any]) -> Callable[[Command], Command]:
    """Give a command the fields of dataclasses as parameters.

    The command itself receives each of them as one value, under its keyword here, so that
    several commands can share them.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            values = {
                name: group(**{f.name: given.pop(f.name) for f in fields(group)})
                for name, group in groups.items()
            }
            command(**given, **values)

        signature = inspect.signature(command, eval_str=True)
        parameters = [
            p.replace(kind=keyword) for p in signature.parameters.values() if p.name not in groups
        ]
        parameters += [
            inspect.Parameter(f.name, keyword, default=f.default, annotation=f.type)
            for group in groups.values()
            for f in fields(group)
        ]
        vars(wrapper)["__signature__"] = signature.replace(parameters=parameters)
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        del wrapper.__wrapped__  # or its parameters would be looked at instead
        return wrapper

    return decorate


def fresh_normalizer(options: FitOptions, *, online: bool = False) -> "sbn.Normalizer":
    """Build the normalizer that the options describe.

    Parameters
    ----------
    options : FitOptions
    online : bool
        Whether its statistics are read after each batch, which with exact sums takes longer.

    Raises
    ------
    InvalidValueError
        An option makes no sense, or none for the policy that was chosen.
    """
    given = options.given()
    # Of 16 columns of 3M rows in Parquet, exact takes 4 % more of the time of `fit`.
    usual = PolicyName.welford if online or "weights" in given else PolicyName.exact
    name = given.pop("policy", usual)
    arguments = {}
    for policy, belonging in _BELONGS.items():
        for option in belonging:
            if option not in given:
                continue
            if policy is not name:
                raise InvalidValueError(
                    f"{flag(option)} belongs to --policy {policy.value}, "
                    f"but the policy is {name.value}"
                )
            arguments[belonging[option]] = _parsed(option, given.pop(option))
    if "null_time" in arguments and "time" not in arguments:
        raise InvalidValueError(
            "--null-time is about rows without an event time: name the column with --time, or "
            "leave it out"
        )
    if "columns" in given:
        given["columns"] = split_columns(given["columns"])
    if "affine" in given:
        given["affine"] = _parse_affine(given["affine"])
    for reaction in {"nan", "inf"} & given.keys():
        given[reaction] = given[reaction].value
    policies = {
        PolicyName.welford: sbn.Welford,
        PolicyName.ema: sbn.EMA,
        PolicyName.batch_ema: sbn.BatchEMA,
        PolicyName.exact: sbn.Exact,
    }
    with in_flags():
        return sbn.Normalizer(policies[name](**arguments), **given)


def flag(option: str) -> str:
    """Spell a parameter as the user does."""
    return "--" + option.replace("_", "-")


# What the library calls an option, with a value or without. A whole call stays as it is, and so
# does what stands in quotation marks, which is the user's.
_KEYWORD = re.compile(
    r"\w+\([^()]*\)|'[^']*'|"
    rf"\b({'|'.join(f.name for f in fields(FitOptions))})="
    r"""(?:'([^']*)'|"([^"]*)"|(True|False)|(\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?))?"""
)


@contextlib.contextmanager
def in_flags() -> Iterator[None]:
    """Let what the library says of its arguments speak of the options that the user typed."""

    def spelled(found: re.Match[str]) -> str:
        name, quoted, double, truth, number = found.groups()
        if name is None:
            return found[0]
        if truth:
            return f"--no-{name}" if truth == "False" else flag(name)
        text = quoted if quoted is not None else double
        value = number.replace("_", "") if number else text and shlex.quote(text)
        return f"{flag(name)} {value}" if value else flag(name)

    try:
        yield
    except InvalidValueError as error:
        raise type(error)(_KEYWORD.sub(spelled, str(error))) from error


def split_columns(texts: Iterable[str]) -> list[str]:
    """Read repeated, comma-separated lists of names."""
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def _parsed(option: str, value: Any) -> Any:
    if option == "initial":
        return None if value == "none" else _numbers(value, 2, "--initial MEAN,VAR")
    if option == "momentum":
        return None if value == "none" else _numbers(value, 1, "--momentum NUMBER")[0]
    if option == "halflife":
        return _number_or_text(value)
    return value.value if option == "null_time" else value


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _numbers(text: str, count: int, what: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        wanted = "a number" if count == 1 else f"{count} numbers with a comma between them"
        raise InvalidValueError(f"{what}: {text!r} is not {wanted}")
    return numbers


def _parse_affine(texts: Iterable[str]) -> dict[str, Any]:
    affine: dict[str, Any] = {}
    for text in texts:
        if os.path.isfile(text):
            affine.update(_read_affine(text))
            continue
        column, equals, pair = text.rpartition("=")
        if not equals:
            raise InvalidValueError(f"--affine {text}: neither COLUMN=GAMMA,BETA nor a JSON file")
        affine[column] = _numbers(pair, 2, f"--affine {column}=GAMMA,BETA")
    return affine


def _read_affine(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            pairs = json.load(file)
    except (ValueError, OSError) as error:
        raise InvalidValueError(f"--affine {path}: {error}") from error
    if not isinstance(pairs, dict):
        raise InvalidValueError(f'--affine {path}: must hold {{"column": [gamma, beta], ...}}')
    return pairs


def parse_csv_types(texts: Iterable[str] | None) -> dict[str, Any]:
    """Read ``NAME=TYPE`` pairs, the type in Arrow's words."""
    if not texts:
        return {}
    import pyarrow as pa  # noqa: PLC0415

    type_for_alias: Any = pa.type_for_alias
    types = {}
    for text in texts:
        column, equals, alias = text.rpartition("=")
        try:
            types[column] = type_for_alias(alias)
        except ValueError:
            equals = ""
        if not equals:
            raise InvalidValueError(
                f"--csv-type {text}: must be NAME=TYPE with a type of Arrow, such as double, "
                "int64, string, date32, timestamp[us] or bool"
            )
    return types


def parse_time(text: str, time: "EventTime") -> Any:
    """Read a point in time, such as those by which statistics forget."""
    import pyarrow as pa  # noqa: PLC0415

    if time.numeric:
        number = _number_or_text(text)
        if not isinstance(number, str):
            return number
    else:
        # As Arrow reads them: to the nanosecond if it can, with a time zone or without.
        for kind in (pa.timestamp(unit, zone) for unit in ("ns", "us") for zone in (None, "UTC")):
            with contextlib.suppress(pa.ArrowInvalid):
                return pa.scalar(text.strip()).cast(kind)
    wanted = "a number" if time.numeric else "a time such as 2026-01-31 or 2026-01-31T12:30:00Z"
    raise InvalidValueError(
        f"--at {text!r}: must be {wanted}, as those in the column {time.column!r}"
    )
