"""The `streambn` command.

Each module defines a group of commands; `main` parses, runs and reports errors.
"""

__all__: list[str] = []
