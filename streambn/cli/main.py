"""The `streambn` command: runs what `streambn.cli.statistics_commands` defines, and ends it well.

Whatever happens, there is one line on stderr at most, no traceback, and an exit code:

====  ==========================================================
0     done
1     failed
2     the command line makes no sense
3     the data's columns do not match the statistics
4     a gate said no (reserved)
5     a statistics file is corrupt
129   the terminal went away
130   interrupted (Ctrl-C)
141   whoever read the output went away (`| head`)
143   terminated
====  ==========================================================
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from streambn.errors import SchemaError, SnapshotError, StreamBNError

__all__ = ["main", "run"]

_FAILED, _USAGE, _SCHEMA, _CORRUPT = 1, 2, 3, 5
# As a shell reports death by SIGINT, SIGPIPE, SIGTERM and SIGHUP.
_INTERRUPTED, _BROKEN_PIPE, _TERMINATED, _HUNG_UP = 130, 141, 143, 129


def main() -> NoReturn:
    """Run the command line, and exit."""
    if any(importlib.util.find_spec(name) is None for name in ("typer", "rich")):
        _say("the streambn command needs its extra: pip install 'streambn[cli]'")
        sys.exit(1)
    code = run(sys.argv[1:])
    # The interpreter is not taken apart: a thread of Arrow or of ours that hangs in a read, as
    # of a store that is gone, would be killed in the midst of it and could take all down.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command line, and return the exit code."""
    # Imports make many objects and hardly any garbage: not to look for it among them, neither now
    # nor later, takes 5 % off --help and 8 % off a small `fit`.
    gc.disable()
    # NumPy's linear algebra starts threads that wait for work by turning in circles. There is none
    # for them here, and on two cores they take 5 % off what the others can do.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _catch_signals()
    try:
        _invoke(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        _say_notes(stop)
        return _INTERRUPTED
    except SystemExit as stop:
        _say_notes(stop)
        return stop.code if isinstance(stop.code, int) else _FAILED
    except BrokenPipeError:
        # What is still buffered has nowhere to go, and must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:
        return _explain(error)
    return 0


def _catch_signals() -> None:
    """Make SIGTERM and SIGHUP exceptions, as SIGINT is, and see to it that none is lost.

    As exceptions they remove temporary files on their way out. But one that strikes in a
    callback from C, or in a finalizer, is swallowed there: Python hands it to the hook,
    which raises it again a moment later, elsewhere.
    """
    for name, code in (("SIGTERM", _TERMINATED), ("SIGHUP", _HUNG_UP)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda *_, code=code: sys.exit(code))

    def raise_again(swallowed: Any) -> None:
        stop = swallowed.exc_value
        if not isinstance(stop, KeyboardInterrupt | SystemExit):
            sys.__unraisablehook__(swallowed)
            return

        def strike(*_: object) -> None:
            raise stop

        signal.signal(signal.SIGALRM, strike)
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    if hasattr(signal, "SIGALRM"):
        sys.unraisablehook = raise_again


def _invoke(arguments: Sequence[str]) -> None:
    """Parse and run, leaving every exception to the caller."""
    import typer  # noqa: PLC0415

    from streambn.cli.statistics_commands import app  # noqa: PLC0415

    command: Any = typer.main.get_command(app)
    for each in command.commands.values():
        each.callback = functools.partial(_interruptible, each.callback)
    for each in (command, *command.commands.values()):
        for parameter in each.get_params(typer.Context(each)):
            if hasattr(parameter, "type_descriptor"):  # typer >= 0.29
                convert = functools.partial(_convert, parameter, parameter.process_value)
                parameter.process_value = convert
    try:
        with command.make_context("streambn", list(arguments) or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as done:  # --help and --version
        if done.exit_code:
            raise


def _convert(parameter: Any, process: Callable[..., Any], context: Any, value: Any) -> Any:
    """Make of what was typed the value that a command takes.

    What is plain, here; all else, and every error, is for typer. It converts with pydantic,
    even an option that was not given, and to import that takes nearly as long as pyarrow: 30 %
    of the time of `fit` for a small file.
    """
    wanted = parameter.type_descriptor.annotation
    many = parameter.multiple or parameter.nargs == -1
    if value is None and not parameter.required:
        plain: Any = () if many else None
    elif wanted == list[str] and value and isinstance(value, tuple):
        plain = list(value)
    elif wanted is not bool and isinstance(wanted, type) and isinstance(value, str) and not many:
        try:
            plain = wanted(value)  # a text, a number, a member of an enumeration
        except ValueError:
            return process(context, value)
    else:
        return process(context, value)
    return plain if parameter.callback is None else parameter.callback(context, parameter, plain)


def _interruptible(run: Callable[..., None], **given: Any) -> None:
    """Run a command, Ctrl-C being answered here: Arrow would, with an error of its own."""
    # Here, as --help needs no Arrow: it would take twice as long.
    import pyarrow as pa  # noqa: PLC0415

    pa.enable_signal_handlers(False)
    gc.freeze()  # what is there by now stays: see `main`
    gc.enable()
    run(**given)


def _explain(error: Exception) -> int:
    """Say in one line what went wrong, and return the exit code for it."""
    import typer  # noqa: PLC0415

    from streambn.cli.statistics_commands import UsageError  # noqa: PLC0415

    # What the parser of the command line raises; it publishes no better name for it.
    parser_error: Any = typer.BadParameter.__mro__[1]
    if isinstance(error, parser_error):
        _say(f"{error.format_message()} (streambn --help lists commands and options)")
        return _USAGE
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        said = f"{where}{error.strerror}"
    elif isinstance(error, StreamBNError | OSError):
        said = str(error)
    else:
        said = f"{type(error).__name__}: {error}"
    _say("; ".join([said, *getattr(error, "__notes__", ())]))
    if isinstance(error, UsageError):
        return _USAGE
    if isinstance(error, SchemaError):
        return _SCHEMA
    return _CORRUPT if isinstance(error, SnapshotError) else _FAILED


def _say_notes(stop: BaseException) -> None:
    """Say what there is to know of a job that was stopped from outside."""
    for note in getattr(stop, "__notes__", ()):
        _say(f"stopped; {note}")


def _say(message: str) -> None:
    print("streambn:", " ".join(message.split()), file=sys.stderr)


if __name__ == "__main__":
    main()
