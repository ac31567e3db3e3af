"""Arrow data in and out: which columns are features, and how they are put back.

It also reads the columns that describe rows: sample weights and event times.
"""

__all__: list[str] = []
