"""The JSON Schema of a statistics file, for readers in any language.

The shape follows from the structs that read and write a file; the meaning of the fields stands
here. The package ships the result as ``statistics.schema.json``, which this module writes::

    python -m streambn.snapshot.schema > streambn/snapshot/statistics.schema.json

A schema cannot say how parts belong together: that all lists over features have one length, say,
or that the checksum is right. `streambn.load` checks that too.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from streambn.snapshot.file import FORMAT, VERSION, StoredFile

__all__ = ["json_schema"]

_SHA256: Final = {"pattern": "^[0-9a-f]{64}$"}
_SUM: Final = {"items": {"type": "string", "pattern": "^(0p0|-?[1-9a-f][0-9a-f]*p-?[0-9]{1,4})$"}}
_COUNTS: Final = {"items": {"type": "integer", "minimum": 0}}
_NOT_NEGATIVE: Final = {"items": {"type": "number", "minimum": 0}}

# What a struct or a field means, and what JSON Schema can say of its values beyond their type.
_MEANINGS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "File": ("A statistics file of streambn.", {}),
    "File.format": ("What the file is.", {"const": FORMAT}),
    "File.version": (
        "Version of the format: the lowest that can express the content.",
        {"minimum": 1, "maximum": VERSION},
    ),
    "File.kind": ("Whether the statistics can go on learning (normalizer), or are frozen.", {}),
    "File.fingerprint": (
        "SHA-256 of the canonical JSON of the body, in hexadecimal; null unless frozen. Canonical "
        "JSON is UTF-8 without white space, with fields in the order of this schema.",
        _SHA256,
    ),
    "File.checksum": (
        "SHA-256 of the canonical JSON of the file with an empty checksum, in hexadecimal.",
        _SHA256,
    ),
    "File.body": ("All that determines the statistics.", {}),
    "File.note": ("Data that the writer added, such as the progress of a job.", {}),
    "File.left_out": ("Columns without statistics, each with the reason.", {}),
    "Body": ("Hyperparameters, columns, policy and state.", {}),
    "Body.options": ("The arguments of a Normalizer, other than policy and columns.", {}),
    "Body.columns": ("The columns that were asked for; null: every numeric one.", {}),
    "Body.leaves": ("The columns that were found; null before the first batch.", {}),
    "Body.policy": ("How the past is weighted, and what was learned.", {}),
    "Body.exclude": ("The columns that are left alone.", {}),
    "Options": ("How values are treated.", {}),
    "Options.eps": ("Added to the variance before its root is taken.", {"minimum": 0}),
    "Options.ddof": ("0: the population's variance. 1: the sample's.", {"enum": [0, 1]}),
    "Options.center": ("Whether the mean is subtracted.", {}),
    "Options.scale": ("Whether values are divided by the standard deviation.", {}),
    "Options.affine": (
        "[gamma, beta] by column, or by element of a vector: z becomes z * gamma + beta.",
        {},
    ),
    "Options.clip": ("Bound of |z|, before affine.", {"exclusiveMinimum": 0}),
    "Options.nan": ("What NaN does.", {}),
    "Options.inf": ("What an infinity does.", {}),
    "Options.weights": ("The column of sample weights.", {"minLength": 1}),
    "Options.schema": ("Whether columns may appear later and be absent.", {}),
    "Options.min_count": (
        "Number of values from which a feature is known; before, it normalizes to null.",
        {"maximum": 2**61},
    ),
    "Leaf": (
        "A numeric column. It has one feature, or one for each element of a vector. Lists over "
        "features follow the order of the leaves.",
        {},
    ),
    "Leaf.path": (
        "The name of the column, then those of the struct fields below it.",
        {"minItems": 1},
    ),
    "Leaf.size": ("Number of elements of a vector; null: one number.", {"minimum": 1}),
    "Leaf.exact": ("Whether values are integers or decimals, which are not rounded.", {}),
    "Leaf.typed": ("Whether a type is known: not while all batches hold nulls only.", {}),
    "Welford": ("Every value counts equally.", {}),
    "Exact": ("Every value counts equally, and sums are exact.", {}),
    "EMA": ("Newer values discount older ones; one of alpha, halflife, span and com is set.", {}),
    "BatchEMA": ("The average over blocks of rows, as batch normalization takes it.", {}),
    "*.kind": ("The policy.", {}),
    "*.state": ("What was learned; null before the first batch.", {}),
    "EMA.alpha": ("Weight of a new value.", {}),
    "EMA.halflife": ("Rows, or a duration such as 7d, in which a weight halves.", {}),
    "EMA.span": ("alpha is 2 / (span + 1).", {}),
    "EMA.com": ("alpha is 1 / (com + 1).", {}),
    "EMA.adjust": ("Whether to divide by the sum of the weights, as in pandas.", {}),
    "EMA.ignore_na": ("Whether a missing value discounts nothing.", {}),
    "EMA.time": ("The column of event times.", {}),
    "EMA.null_time": ("Whether rows without a time are skipped; otherwise they are an error.", {}),
    "EMAState": ("What an EMA learned.", {}),
    "EMAState.moments": ("Of all values; with adjust false, of all but the first.", {}),
    "EMAState.first": ("Of the first value alone; only with adjust false.", {}),
    "EMAState.gaps": (
        "Numbers of rows without a value before the first value and after the last one, each a "
        "list over features; always with adjust false since version 2, and with adjust true if "
        "one is not 0. Weights are as of the last value.",
        {},
    ),
    "EMAState.times": (
        "The times as of which the features are weighted, as two lists whose sum counts: in "
        "nanoseconds since 1970, or in the numbers of the column; only by event time.",
        {},
    ),
    "EMAState.latest": ("The time of the newest row, likewise as a sum of two numbers.", {}),
    "EMAState.zoned": ("Whether the times have a time zone; null: unknown, or numbers.", {}),
    "BatchEMA.momentum": ("Weight of a new block; null: all blocks count equally.", {}),
    "BatchEMA.decay": ("Weight of the past, where that was given: 1 - momentum.", {}),
    "BatchEMA.ddof": ("0 or 1, for the variance of a block.", {"enum": [0, 1]}),
    "BatchEMA.initial": ("Mean and variance before the first block.", {}),
    "BatchEMA.batch_rows": ("Rows of a block; null: the batches of the data.", {"minimum": 1}),
    "BatchEMAState": ("What a BatchEMA learned.", {}),
    "BatchEMAState.means": ("Of the blocks' means, each block one row.", {}),
    "BatchEMAState.variances": ("Of the blocks' variances, each block one row.", {}),
    "BatchEMAState.open": ("Of the rows of the block that is not full yet.", {}),
    "BatchEMAState.open_rows": ("Number of those rows.", {"minimum": 0}),
    "BatchEMAState.blocks": ("Number of complete blocks.", {"minimum": 0}),
    "Moments": (
        "Weighted moments, each field a list over features. The mean is (mean_hi + mean_lo) * "
        "2**exponent. The population's variance is (m2_hi + m2_lo) * 4**exponent / weight, the "
        "unbiased one (m2_hi + m2_lo) * 4**exponent * weight / (2 * pairs).",
        {},
    ),
    "Moments.weight": ("Sum of the weights.", _NOT_NEGATIVE),
    "Moments.pairs": ("Sum over i < j of w_i * w_j.", _NOT_NEGATIVE),
    "Moments.squares": ("Sum of the squares of the weights. Version 1 has none.", _NOT_NEGATIVE),
    "Moments.mean_hi": ("The mean, high part.", {}),
    "Moments.mean_lo": ("The mean, low part.", {}),
    "Moments.m2_hi": ("Sum of w_i * (x_i - mean)**2, high part.", _NOT_NEGATIVE),
    "Moments.m2_lo": ("Sum of w_i * (x_i - mean)**2, low part.", {}),
    "Moments.decay": ("The factor by which the values discount all before them.", _NOT_NEGATIVE),
    "Moments.exponent": ("Binary exponent of the units; 0 for ordinary values.", {}),
    "ExactMoments": (
        "Exact sums, each field a list over features. The text <m>p<e> is m * 2**e, with an odd "
        "hexadecimal m; zero is 0p0. The mean is total / count and the population's variance is "
        "squares / count - mean**2, in rational arithmetic.",
        {},
    ),
    "ExactMoments.scale": (
        "null: total and squares are the sums. Otherwise total counts units of 10**-scale, and "
        "squares units of 10**(-2 * scale).",
        {},
    ),
    "ExactMoments.total": ("Sum of the values.", _SUM),
    "ExactMoments.squares": ("Sum of the squares of the values.", _SUM),
    "*.count": ("Values seen that are not missing.", _COUNTS),
    "*.nulls": ("Nulls seen.", _COUNTS),
    "*.nans": ("NaN seen.", _COUNTS),
    "*.pos_infs": ("Positive infinities seen.", _COUNTS),
    "*.neg_infs": ("Negative infinities seen.", _COUNTS),
    "*.min": ("The smallest value; null without values.", {}),
    "*.max": ("The largest value; null without values.", {}),
}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a statistics file of any version."""
    generated = json.dumps(msgspec.json.schema(StoredFile))
    generated = re.sub(r'("|/)Stored(\w+)"', r'\1\2"', generated)
    definitions = json.loads(generated, object_hook=_in_order)["$defs"]
    for name, definition in definitions.items():
        definition["description"], _ = _meaning(name)
        for key, field in definition["properties"].items():
            description, constraints = _meaning(f"{name}.{key}")
            field["description"] = description
            for alternative in _not_null(field):
                alternative.update(constraints)
    root = definitions.pop("File")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "title": FORMAT,
        "$defs": definitions,
    }


def _in_order(part: dict[str, Any]) -> dict[str, Any]:
    """Order alternatives, null last: their order depends on the version of msgspec."""
    if "anyOf" in part:
        part["anyOf"].sort(key=lambda each: (each.get("type") == "null", json.dumps(each)))
    return part


def _meaning(name: str) -> tuple[str, dict[str, Any]]:
    return _MEANINGS.get(name) or _MEANINGS[f"*.{name.partition('.')[2]}"]


def _not_null(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schema of a field, or its alternatives other than null."""
    for alternative in field.get("anyOf", [field]):
        if alternative.get("type") != "null":
            yield alternative


if __name__ == "__main__":
    json.dump(json_schema(), sys.stdout, indent=2)
    print()
