"""Laws: what a subclass inherits as tests."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import given, settings

__all__ = ["Laws", "law"]


def law(*strategies: Any) -> Callable[[Any], Any]:
    """Mark a method as a law, to be checked on what the strategies draw."""

    def mark(method: Any) -> Any:
        method.strategies = strategies
        return method

    return mark


class Laws:
    """Methods ``law_...``, which become tests ``test_...`` in the classes below the next.

    Attributes
    ----------
    max_examples : int, optional
        The number of examples that each law is tried on. By default, a quarter of those of the
        Hypothesis profile, which are 25.
    """

    max_examples: ClassVar[int | None] = None

    def __init_subclass__(cls) -> None:
        if Laws in cls.__bases__:
            return  # the laws themselves, of which nothing is to be tested yet
        # Each class gets tests of its own: Hypothesis keeps what it learned of a test,
        # and what it learned of one subject says nothing of another.
        examples = cls.max_examples or max(settings().max_examples // 4, 1)
        few = settings(max_examples=examples, deadline=None)
        for name in dir(cls):
            if name.startswith("law_"):
                method = getattr(cls, name)
                test = functools.update_wrapper(_copied(method), method)
                test.__name__ = name.replace("law_", "test_", 1)
                given_some: Any = given(*method.strategies)
                setattr(cls, test.__name__, few(given_some(test)))


def _copied(method: Any) -> Any:
    return types.FunctionType(
        method.__code__,
        method.__globals__,
        method.__name__,
        method.__defaults__,
        method.__closure__,
    )
