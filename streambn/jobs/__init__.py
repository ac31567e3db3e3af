"""File jobs: fit, apply and normalize, which can be killed at any time and resumed.

Each job is a function of a plan, options and a display of progress, and returns a `Report`. An
`Executor` lets other processes or machines do the work.
"""

from streambn.jobs.apply import WriteOptions, apply_job, normalize_job
from streambn.jobs.checkpoint import Checkpoint, Interval
from streambn.jobs.executors import Executor
from streambn.jobs.fit import check_resumable, configure_process, fit_job, run_fit
from streambn.jobs.operations import ApplyStatistics, LearnAndApply
from streambn.jobs.plan import Output, Plan, ReadOptions, check_target, make_plan
from streambn.jobs.progress import Display, Progress
from streambn.jobs.report import Report, Skipped

__all__ = [
    "ApplyStatistics",
    "Checkpoint",
    "Display",
    "Executor",
    "Interval",
    "LearnAndApply",
    "Output",
    "Plan",
    "Progress",
    "ReadOptions",
    "Report",
    "Skipped",
    "WriteOptions",
    "apply_job",
    "check_resumable",
    "check_target",
    "configure_process",
    "fit_job",
    "make_plan",
    "normalize_job",
    "run_fit",
]
