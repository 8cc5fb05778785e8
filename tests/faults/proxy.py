"""A TCP proxy that does to its connections what networks do, and can stop PostgreSQL's protocol at a chosen message."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Literal

Direction = Literal["to server", "to client"]
# Told each message of PostgreSQL's protocol: its direction, type and content. True stops the connection before it.
Watcher = Callable[[Direction, bytes, bytes], bool]

Pair = tuple[asyncio.StreamWriter, asyncio.StreamWriter]

HEADER = 5  # a message's type and length
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close sends RST


class Proxy:
    """Listens on `port` and forwards to *target_port*; steered from the test's thread, runs in its own."""

    def __init__(self, target_port: int, *, is_postgres: bool) -> None:
        self.target_port = target_port
        self.is_postgres = is_postgres
        self.port = 0
        self.delay_seconds: dict[Direction, float] = {}
        self.stalled: set[Direction] = set()
        self.watcher: Watcher | None = None
        self.held = threading.Event()
        self.counts: dict[str, int] = {}
        self.loop = asyncio.new_event_loop()
        self.pairs: dict[Pair, list[asyncio.Task[None]]] = {}
        self.dead: list[Pair] = []
        self._freed = asyncio.Event()

    def hold_at(self, watcher: Watcher) -> None:
        """Stop a connection before the first message for which *watcher* is true; `held` tells when."""
        self.held.clear()
        self.watcher = watcher

    def heal(self) -> None:
        """Forward everything from now on, that which was stalled or held too."""
        self.watcher = None
        self.delay_seconds = {}
        self.stalled = set()
        self.loop.call_soon_threadsafe(self._freed.set)

    def reset(self) -> None:
        """Break every connection with RST, on both sides."""
        self._run(self._break_all(("to server", "to client")))

    def half_open(self, direction: Direction) -> None:
        """Break only the leg *direction* of every connection; the other peer is told nothing, and hears nothing more."""
        self._run(self._break_all((direction,), play_dead=True))

    def _run(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def _break_all(self, directions: tuple[Direction, ...], *, play_dead: bool = False) -> None:
        for (to_server, to_client), pumps in list(self.pairs.items()):
            if play_dead:
                self.dead.append((to_server, to_client))
                for pump in pumps:
                    pump.cancel()
            for direction, writer in (("to server", to_server), ("to client", to_client)):
                if direction in directions:
                    connection = writer.get_extra_info("socket")
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    writer.transport.abort()
                    self._count("broken")

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count("connections")
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = (server_writer, writer)
        pumps = [
            asyncio.create_task(self._pump(reader, server_writer, "to server")),
            asyncio.create_task(self._pump(server_reader, writer, "to client")),
        ]
        self.pairs[pair] = pumps
        try:
            await asyncio.wait(pumps)
        except asyncio.CancelledError:
            return  # the proxy ends; asyncio would log it as an error
        del self.pairs[pair]
        if pair not in self.dead:
            for leg in pair:
                leg.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        messages = _Messages(direction, self) if self.is_postgres else None
        try:
            while data := await reader.read(65536):
                if direction in self.delay_seconds:
                    self._count("delayed")
                    await asyncio.sleep(self.delay_seconds[direction])  # the fault itself
                await self._wait_while_stalled(direction)
                for piece, stop in messages.feed(data) if messages else [(data, False)]:
                    writer.write(piece)
                    if stop:
                        await writer.drain()
                        self._count("held")
                        self.stalled |= {"to server", "to client"}
                        self.held.set()
                        await self._wait_while_stalled(direction)
                await writer.drain()
            await self._wait_while_stalled(direction)
        except (ConnectionError, OSError):
            pass
        # One side is gone: tell the other, unless this proxy plays dead.
        writer.transport.abort()

    async def _wait_while_stalled(self, direction: Direction) -> None:
        if direction in self.stalled:
            self._count("stalled")
        while direction in self.stalled:
            self._freed.clear()
            await self._freed.wait()


class _Messages:
    """Cuts one direction of PostgreSQL's protocol into whole messages."""

    def __init__(self, direction: Direction, proxy: Proxy) -> None:
        self.direction = direction
        self.proxy = proxy
        self.buffer = b""
        # A client's first message has no type; a server's all do.
        self.untyped = direction == "to server"

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Yield the pieces to forward, and after each whether to stop there."""
        self.buffer += data
        ready = b""
        while (size := self._next_size()) is not None:
            message, self.buffer = self.buffer[:size], self.buffer[size:]
            kind, content = (b"", message) if self.untyped else (message[:1], message[HEADER:])
            self.untyped = False
            if self.proxy.watcher and self.proxy.watcher(self.direction, kind, content):
                # Half a message of COPY has already gone when the stop comes; of the others nothing.
                half = len(message) // 2 if kind == b"d" else 0
                yield ready + message[:half], True
                ready = message[half:]
            else:
                ready += message
        if ready:
            yield ready, False

    def _next_size(self) -> int | None:
        start = 0 if self.untyped else 1
        if len(self.buffer) < start + 4:
            return None
        size = start + int.from_bytes(self.buffer[start : start + 4])
        return size if len(self.buffer) >= size else None


@contextmanager
def forwarding(target_port: int, *, is_postgres: bool = False) -> Iterator[Proxy]:
    """A proxy in front of *target_port*, for as long as the `with` lasts."""
    proxy = Proxy(target_port, is_postgres=is_postgres)
    loop = proxy.loop
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(proxy.serve, "127.0.0.1", 0)

    async def end() -> None:
        server.close()
        for leg in [leg for pair in [*proxy.pairs, *proxy.dead] for leg in pair]:
            leg.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
