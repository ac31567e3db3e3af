"""How the past is weighted: hyperparameters, and what they do to a state.

A policy holds no data. Its state is an immutable value that goes through `init`,
`update`, `merge` and `read`; states of whatever kind keep the same books, which `tally`
shows. To write one of your own, fulfil `Policy` and run the laws of
`streambn.testing.PolicyLaws` on it.

Priors (`initial` of `BatchEMA`, the first value under ``adjust=False`` of `EMA`) enter
when a state is *read*; a state into which they were baked could not be merged.
"""

from streambn.policies.base import (
    ByRow,
    EventTime,
    Extras,
    Policy,
    RowPolicy,
    event_time_of,
    takes_weights,
)
from streambn.policies.batch_ema import BatchEMA, BatchState
from streambn.policies.ema import EMA
from streambn.policies.exact import Exact
from streambn.policies.recursive import RecursiveState
from streambn.policies.timed import TimedState
from streambn.policies.welford import Welford

__all__ = [
    "EMA",
    "BatchEMA",
    "BatchState",
    "ByRow",
    "EventTime",
    "Exact",
    "Extras",
    "Policy",
    "RecursiveState",
    "RowPolicy",
    "TimedState",
    "Welford",
    "event_time_of",
    "takes_weights",
]
