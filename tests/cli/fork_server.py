"""Run `streambn` commands in forked children of a process that has imported everything.

    python fork_server.py

reads requests from stdin, a line of JSON each, and prints the exit code of each. A command then
takes some milliseconds instead of the half second that an interpreter needs for the imports.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process with several threads must not fork
streambn = importlib.import_module("streambn")
MODULES = (
    *("pandas", "pyarrow.compute", "pyarrow.csv", "pyarrow.dataset", "pyarrow.parquet"),
    *("rich.console", "rich.padding", "rich.table", "typer.main"),
    *(m.name for m in pkgutil.walk_packages(streambn.__path__, "streambn.") if ".cli." in m.name),
)


def run(request: dict[str, str | list[str]]) -> None:
    """Become the command: main() ends this process."""
    os.chdir(request["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(request[stream], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv[1:] = request["args"]
    importlib.import_module("streambn.cli.main").main()


for module in MODULES:
    if not module.endswith("__main__"):
        importlib.import_module(module)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(json.loads(line))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
