"""How the past is weighted: policies, and the contract that they fulfil.

`base` holds the contract, and each of the other modules one policy or one form of it.
"""

from streambn.policies.adjusted import AdjustedState
from streambn.policies.arguments import format_arguments, is_name
from streambn.policies.base import (
    EventTime,
    Policy,
    RowRule,
    check_policy,
    check_takes_weights,
    instant,
)
from streambn.policies.batch_ema import BatchEMA, BatchState
from streambn.policies.durations import nanoseconds
from streambn.policies.ema import EMA
from streambn.policies.exact import Exact
from streambn.policies.recursive import RecursiveState
from streambn.policies.timed import TimedState
from streambn.policies.welford import Welford

__all__ = [
    "EMA",
    "AdjustedState",
    "BatchEMA",
    "BatchState",
    "EventTime",
    "Exact",
    "Policy",
    "RecursiveState",
    "RowRule",
    "TimedState",
    "Welford",
    "check_policy",
    "check_takes_weights",
    "format_arguments",
    "instant",
    "is_name",
    "nanoseconds",
]
