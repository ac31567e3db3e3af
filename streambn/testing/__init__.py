"""Laws that policies and adapters keep, and strategies that build data for them.

For our own tests and for policies and adapters of your own::

    from streambn.testing import PolicyLaws

    class TestMyPolicy(PolicyLaws):
        policy = MyPolicy(rate=0.1)

pytest collects the laws as tests. They are checked on states that were built by
operations: random batches with nulls, NaN and slices among them, cut at random and
merged in random trees. Needs hypothesis: ``pip install 'streambn[test]'``.
"""

try:
    import hypothesis  # noqa: F401 - asked for here, where the message can say what to do
except ImportError as error:  # pragma: no cover - the message is for people without it
    raise ImportError("streambn.testing needs hypothesis: pip install 'streambn[test]'") from error

from streambn.testing.adapter_laws import AdapterLaws
from streambn.testing.policy_laws import PolicyLaws
from streambn.testing.strategies import batches, cuts, exact_moments, merged_in_a_tree

__all__ = ["AdapterLaws", "PolicyLaws", "batches", "cuts", "exact_moments", "merged_in_a_tree"]
