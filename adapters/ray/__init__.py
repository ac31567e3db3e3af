"""streambn on Ray: statistics and normalization of Datasets.

Needs Ray Data: ``pip install 'streambn[ray]'``.
"""

try:
    import ray.data  # noqa: F401
except ImportError as error:
    raise ImportError(
        "streambn.adapters.ray needs Ray Data: pip install 'streambn[ray]'"
    ) from error

from .aggregation import Statistics
from .datasets import fit, transform
from .preprocessors import preprocessor

__all__ = ["Statistics", "fit", "preprocessor", "transform"]
