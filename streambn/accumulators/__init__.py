"""The values that statistics are kept in, which merge without loss.

`moments` holds the monoid of weighted moments; `exact` holds exact integer sums.
"""

__all__: list[str] = []
