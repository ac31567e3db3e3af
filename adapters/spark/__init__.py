"""streambn on Apache Spark: statistics and normalization of DataFrames and of files.

Needs PySpark 4 and Java 17: ``pip install 'streambn[spark]'``.
"""

try:
    import pyspark  # noqa: F401
except ImportError as error:
    raise ImportError(
        "streambn.adapters.spark needs PySpark: pip install 'streambn[spark]'"
    ) from error

from .datasets import apply_dataset, fit_dataset
from .executor import SparkExecutor
from .frames import fit, transform
from .session import open_session
from .sql import transform_sql
from .streaming import StreamingFit

__all__ = [
    "SparkExecutor",
    "StreamingFit",
    "apply_dataset",
    "fit",
    "fit_dataset",
    "open_session",
    "transform",
    "transform_sql",
]
