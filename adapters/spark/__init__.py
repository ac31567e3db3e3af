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
from .frames import fit, transform
from .sql import transform_sql
from .streaming import StreamingFit

__all__ = ["StreamingFit", "apply_dataset", "fit", "fit_dataset", "transform", "transform_sql"]
