"""Run the command with ``python -m streambn.cli``."""

from streambn.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
