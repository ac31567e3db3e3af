"""The entry point of the `streambn` command: it runs a command line and reports how it ended.

A command that fails prints one line on stderr, never a traceback, and exits with one of the
codes in `streambn.cli.app.EXIT_CODES`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from streambn._lazy import lazy_module
from streambn._messages import shown, spelling
from streambn.cli.messages import say
from streambn.errors import SchemaError, SnapshotError, StreamBNError

# An installation without the extra `cli` lacks click, and `main` says so.
click = lazy_module("click")
app = lazy_module("streambn.cli.app")

__all__ = ["main", "run"]

_FAILED, _USAGE, _SCHEMA, _CORRUPT = 1, 2, 3, 5
# 128 + the number of the signal, as shells report it.
_HANGUP, _INTERRUPTED, _BROKEN_PIPE, _TERMINATED = 129, 130, 141, 143


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    if any(importlib.util.find_spec(name) is None for name in ("click", "rich")):
        say("the streambn command needs its extra: pip install 'streambn[cli]'")
        sys.exit(_FAILED)
    # Imports allocate many objects and free almost none. Without collections, and with the modules
    # frozen (see `Command.invoke`), --help takes 5 % less time and a small `fit` 8 % less.
    gc.disable()
    # OpenBLAS starts threads that spin while they wait. streambn has no work for them, and on two
    # cores they take 5 % of the time of the threads that have.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Arrow's encoder of Parquet allocates from this pool alone. With the default, mimalloc, it asks
    # the system for new memory for each page, and `normalize` of a Snappy file takes a third more.
    if sys.platform == "linux":
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
    # mimalloc, which decodes, keeps what it frees. If it returned it to the system and asked for
    # it again, `fit` and `normalize` would take a tenth to a fifth more time, and as much memory.
    os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")
    # As on stderr, characters that the encoding lacks are escaped.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    _catch_signals()
    code = run(sys.argv[1:])
    # A normal exit waits for threads that are blocked in a read, for example from a store that
    # does not answer. Everything is written by now.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command line, report an error in one line, and return the exit code."""
    state: dict[str, Any] = {}
    try:
        _invoke(arguments, state)
        sys.stdout.flush()
    except (KeyboardInterrupt, SystemExit) as stop:
        for note in getattr(stop, "__notes__", ()):
            say(f"stopped; {note}")
        if isinstance(stop, KeyboardInterrupt):
            return _INTERRUPTED
        return stop.code if isinstance(stop.code, int) else _FAILED
    except BrokenPipeError:
        # Python flushes stdout again at exit, and would report the same error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:
        return _report_failure(error, state, as_json="--json" in arguments)
    return 0


def _invoke(arguments: Sequence[str], state: dict[str, Any]) -> None:
    """Parse and run a command line; every exception is for the caller.

    `state` is click's context object: the command notes there where its output goes.
    """
    # `click.Command.main` does the same, but handles Ctrl-C and broken pipes in its own way.
    command = app.streambn
    try:
        with (
            spelling(app.write_flag),
            command.make_context("streambn", list(arguments) or ["--help"], obj=state) as context,
        ):
            command.invoke(context)
    except click.exceptions.Exit as done:  # after --help and --version
        if done.exit_code:
            raise


def _catch_signals() -> None:
    """Raise an exception on SIGTERM and SIGHUP, as Python does on SIGINT.

    The exception removes temporary files on its way out. Python swallows one that is raised in
    a callback from C or in a finalizer, and calls `sys.unraisablehook`. The hook here raises it
    again a moment later, from a timer.
    """
    for name, code in (("SIGTERM", _TERMINATED), ("SIGHUP", _HANGUP)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda *_, code=code: sys.exit(code))

    def raise_again(swallowed: Any) -> None:
        stop = swallowed.exc_value
        if not isinstance(stop, KeyboardInterrupt | SystemExit):
            # pyarrow cannot decode every CSV row that it refuses. Its own error follows.
            if not isinstance(stop, UnicodeDecodeError):
                sys.__unraisablehook__(swallowed)
            return

        def strike(*_: object) -> None:
            raise stop

        signal.signal(signal.SIGALRM, strike)
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    if hasattr(signal, "SIGALRM"):
        sys.unraisablehook = raise_again


def _report_failure(error: Exception, state: dict[str, Any], *, as_json: bool) -> int:
    """Report an error in one line, and return its exit code."""
    code, message = _explain(error)
    # What click and Arrow say may have several lines.
    lines = "; ".join([message, *getattr(error, "__notes__", ())]).split("\n")
    message = shown(" ".join(line for text in lines if (line := text.strip())))
    # stdout may hold the output of the command.
    occupied = state.get("output") == "-"
    if as_json:
        kind = "UsageError" if code == _USAGE else type(error).__name__
        document = {"error": message, "kind": kind, "exit_code": code}
        print(json.dumps(document), file=sys.stderr if occupied else sys.stdout, flush=True)
    if not (as_json and occupied):
        say(message)
    return code


def _explain(error: Exception) -> tuple[int, str]:
    """Return the exit code and the message of an error."""
    if isinstance(error, click.ClickException):
        # click raises subclasses of UsageError, the commands that class itself.
        context = getattr(error, "ctx", None)
        by_parser = context is not None and type(error) is not click.UsageError
        hint = f" (see {context.command_path} --help)" if by_parser and context else ""
        return error.exit_code, f"{error.format_message()}{hint}"
    if isinstance(error, StreamBNError):
        codes = ((SchemaError, _SCHEMA), (SnapshotError, _CORRUPT), (StreamBNError, _FAILED))
        code = next(code for kind, code in codes if isinstance(error, kind))
        return code, app.describe_error(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename and error.strerror else ""
        return _FAILED, f"{where}{error.strerror or error}"
    if isinstance(error, UnicodeEncodeError):  # of an argument; Arrow has text in UTF-8 only
        return _FAILED, f"{error.object!r} is not UTF-8, as names and values must be; paths may be"
    return _FAILED, f"{type(error).__name__}: {error}"
