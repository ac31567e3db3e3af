"""File jobs: fit, apply and normalize, safe to kill and able to resume.

The shell runs them; each is a function of sources, options and a place to write.
"""

__all__: list[str] = []
