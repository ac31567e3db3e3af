"""Pipes: standard input and named pipes, read as their data arrives."""

from __future__ import annotations

import contextlib
import io
import select
import struct
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Pipe"]

# A wait for a pipe ends after so many milliseconds, so that Python can handle signals.
_POLL_MILLISECONDS = 500
# Linux hands on at most so many bytes at a time.
_BUFFER = 1 << 16
# Python allocates as many bytes as are asked for before it reads.
_MOST = 1 << 20
# The first bytes of each message of an Arrow IPC stream; its length follows.
_CONTINUATION = b"\xff\xff\xff\xff"
# The entry for the length of the body in the vtable of a message [1]_.
#
# .. [1] https://github.com/apache/arrow/blob/main/format/Message.fbs
_BODY_LENGTH = 10


class Pipe(io.BufferedReader):
    """A buffered pipe. A read returns all bytes that were asked for, unless the pipe ends.

    Parameters
    ----------
    raw : binary file object
        Unbuffered. The caller closes it.
    """

    def __init__(self, raw: Any) -> None:
        self._source = _PolledFile(raw)
        super().__init__(self._source, _BUFFER)
        self._complete = 0  # the position up to which all messages are in the buffer

    def head(self, count: int) -> bytes:
        """Return the first bytes, which stay to be read. Nothing may have been read before."""
        return self._source.head(count)

    def gather(self, count: int, seconds: float) -> bytes:
        """Wait for bytes, and return at most `count` that come within so many seconds of them."""
        parts = [self.read1(count)]
        missing = count - len(parts[0])
        end = time.monotonic() + seconds
        while parts[-1] and missing and self._source.has_data(end - time.monotonic()):
            parts.append(self.read1(missing))
            missing -= len(parts[-1])
        return b"".join(parts)

    def has_message(self) -> bool:
        """Return whether the next message of an Arrow IPC stream is in the buffer as a whole.

        It never waits. The position must be at the start of a message.
        """
        position = self.tell()
        if position >= self._complete:
            self._source.waits = False
            try:
                self._complete = position + _complete_messages(self.peek())
            finally:
                self._source.waits = True
        return position < self._complete


class _PolledFile(io.RawIOBase):
    """A file that is read only when it has data.

    Python handles a signal that arrives just before a blocking read only after the read, which may
    never end. Polling first keeps the read from blocking.
    """

    waits = True  # whether a read waits for data

    def __init__(self, raw: Any) -> None:
        self._raw, self._position, self._head = raw, 0, b""
        self._poll: Callable[[int], Any] | None = None
        with contextlib.suppress(AttributeError, OSError):  # no poll here, or no descriptor
            poll = select.poll()
            poll.register(raw, select.POLLIN)
            self._poll = poll.poll

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read at least one byte, unless the file ends; None: there is no data and no wait."""
        if self._head:
            data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        elif self.waits or (self._poll is not None and self._poll(0)):
            data = self._read_available(len(buffer))
        else:
            return None
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def head(self, count: int) -> bytes:
        """Read the first bytes, and keep them for the next read."""
        while len(self._head) < count:
            data = self._read_available(count - len(self._head))
            if not data:
                break
            self._head += data
        return self._head

    def has_data(self, seconds: float) -> bool:
        """Wait for data or for the end, and return whether it came within so many seconds."""
        return bool(self._poll is None or self._poll(max(round(1000 * seconds), 0)))

    def _read_available(self, count: int) -> bytes:
        while self._poll is not None and not self._poll(_POLL_MILLISECONDS):
            pass
        data: bytes = self._raw.read(min(count, _MOST))
        return data

    def tell(self) -> int:
        """Return the number of bytes that were read."""
        return self._position


def _complete_messages(data: bytes) -> int:
    """Return the number of bytes of the messages that are complete, from the first one on."""
    end = 0
    # What is no message, or damaged, counts as incomplete: reading it raises the error.
    with contextlib.suppress(struct.error):
        while (length := _message_length(data, end)) > 0 and end + length <= len(data):
            end += length
    return end


def _message_length(data: bytes, start: int) -> int:
    """Return the length of the message that starts there; 0 if there is none.

    Raises
    ------
    struct.error
        Its header is incomplete or damaged.
    """
    mark, header = struct.unpack_from("<4si", data, start)
    if mark != _CONTINUATION or header <= 0:
        return 0
    start += 8
    table = start + int(struct.unpack_from("<I", data, start)[0])
    entries = table - int(struct.unpack_from("<i", data, table)[0])
    (size,) = struct.unpack_from("<H", data, entries)
    (place,) = struct.unpack_from("<H", data, entries + _BODY_LENGTH)
    # A length of 0, as in a schema, is not stored.
    stored = size > _BODY_LENGTH and place > 0
    body: int = struct.unpack_from("<q", data, table + place)[0] if stored else 0
    return 8 + int(header) + max(body, 0)
