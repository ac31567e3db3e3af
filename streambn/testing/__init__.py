"""Law suites for policies and adapters, and Hypothesis strategies for their data.

The tests of streambn use them, and so can those of your own policies and adapters::

    from streambn.testing import PolicyLaws

    class TestMyPolicy(PolicyLaws):
        policy = MyPolicy(rate=0.1)

pytest collects the laws as tests. Their states are built by operations: random batches, some with
nulls, NaN or slices, are cut at random and merged in random trees. The package needs hypothesis:
``pip install 'streambn[test]'``.
"""

try:
    import hypothesis  # noqa: F401 - a clear message if it is missing
except ImportError as error:  # pragma: no cover
    raise ImportError("streambn.testing needs hypothesis: pip install 'streambn[test]'") from error

from streambn.testing.adapter_laws import AdapterLaws
from streambn.testing.policy_laws import PolicyLaws
from streambn.testing.strategies import batches, cuts, exact_moments, merged_in_a_tree

__all__ = ["AdapterLaws", "PolicyLaws", "batches", "cuts", "exact_moments", "merged_in_a_tree"]
