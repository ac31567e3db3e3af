"""Laws that a subclass inherits as tests."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import given, settings

__all__ = ["Laws", "law"]


def law(*strategies: Any) -> Callable[[Any], Any]:
    """Mark a method as a law, which is checked on examples of the strategies."""

    def mark(method: Any) -> Any:
        method.strategies = strategies
        return method

    return mark


class Laws:
    """A suite of methods ``law_...``, which become tests ``test_...`` in subclasses of a suite.

    Attributes
    ----------
    max_examples : int, optional
        Number of examples for each law. Default: a quarter of the Hypothesis profile's, or 25.
    """

    max_examples: ClassVar[int | None] = None

    def __init_subclass__(cls) -> None:
        if Laws in cls.__bases__:
            return  # a suite, which is not tested itself
        # Each class gets functions of its own, because Hypothesis keeps a database of failures
        # per function.
        examples = cls.max_examples or max(settings().max_examples // 4, 1)
        few = settings(max_examples=examples, deadline=None)
        for name in dir(cls):
            if name.startswith("law_"):
                f = getattr(cls, name)
                copy = types.FunctionType(
                    f.__code__, f.__globals__, f.__name__, f.__defaults__, f.__closure__
                )
                test = functools.update_wrapper(copy, f)
                test.__name__ = name.replace("law_", "test_", 1)
                given_some: Any = given(*f.strategies)
                setattr(cls, test.__name__, few(given_some(test)))
