"""A loop in asyncio over a socket, which is cancelled, resumes and learns each message once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncGenerator
from pathlib import Path

import pyarrow as pa
from normalizers import bits
from numbered_stream import batch, undisturbed

import streambn as sbn


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each number with the batch of that number, until the client goes."""
    try:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                number = int.from_bytes(await reader.readexactly(4))
                message = batch(number).serialize().to_pybytes()
                writer.write(len(message).to_bytes(4) + message)
                await writer.drain()
    finally:
        await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, also if the other side is gone or this task is cancelled."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def receive(port: int, begin: int) -> AsyncGenerator[tuple[int, pa.RecordBatch]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    schema = batch(0).schema
    try:
        for number in itertools.count(begin):
            writer.write(number.to_bytes(4))
            size = int.from_bytes(await reader.readexactly(4))
            yield number, pa.ipc.read_record_batch(await reader.readexactly(size), schema)
    finally:
        await close(writer)


def test_a_cancelled_loop_resumes_where_it_was(tmp_path: Path, long: bool) -> None:
    path, rng = tmp_path / "s.json", random.Random(2)
    end = 2000 if long else 200

    async def loop(port: int, reached: asyncio.Event, stop: int) -> None:
        async with sbn.Checkpointer(path, every=8) as checkpoint:
            norm, place = checkpoint.resume(sbn.Normalizer(sbn.BatchEMA(momentum=0.1)))
            messages = receive(port, place.get("next", 0))
            async with contextlib.aclosing(messages):
                async for number, message in messages:
                    norm.update(message)
                    checkpoint.commit(norm, {"next": number + 1})
                    if number + 1 == end:
                        break
                    if number + 1 >= stop:
                        reached.set()
                        await asyncio.Event().wait()  # until it is cancelled

    async def serve() -> None:
        async with await asyncio.start_server(send, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            for stop in sorted(rng.sample(range(1, end), 5)):
                reached = asyncio.Event()
                task = asyncio.create_task(loop(port, reached, stop))
                await reached.wait()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert sbn.load(path).metadata["next"] == stop
            await loop(port, asyncio.Event(), end)

    asyncio.run(serve())
    saved = sbn.load(path)
    assert saved.metadata == {"next": end}
    assert bits(saved) == bits(undisturbed(end, sbn.BatchEMA(momentum=0.1)))
