"""TCP proxies: they do to connections what networks do, stop PostgreSQL's protocol at a chosen message, or have a certificate."""

import asyncio
import contextlib
import socket
import ssl
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Literal, TypeVar

import trustme

Direction = Literal["to server", "to client"]
# Told each message of PostgreSQL's protocol: its direction, type and content. True stops the connection before it.
Watcher = Callable[[Direction, bytes, bytes], bool]
Result = TypeVar("Result")
AnyProxy = TypeVar("AnyProxy", bound="Proxy")

DIRECTIONS: tuple[Direction, Direction] = ("to server", "to client")
HEADER = 5  # a message's type and length
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close sends RST
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class Proxy:
    """Listens on `port` and forwards to *target_port*; steered from the test's thread, runs in its own."""

    def __init__(self, target_port: int, *, is_postgres: bool = False) -> None:
        self.target_port, self.is_postgres, self.port = target_port, is_postgres, 0
        self.delay_seconds: dict[Direction, float] = {}
        self.stalled: set[Direction] = set()
        self.watcher: Watcher | None = None
        self.held = threading.Event()
        self.counts = Counter[str]()
        self.loop = asyncio.new_event_loop()
        # the writers to server and client, and what forwards to them
        self.pairs: dict[tuple[asyncio.StreamWriter, asyncio.StreamWriter], list[asyncio.Task[None]]] = {}
        self.dead: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._freed = asyncio.Event()

    def hold_at(self, watcher: Watcher) -> None:
        """Stop a connection before the first message for which *watcher* is true; `held` tells when."""
        self.held.clear()
        self.watcher = watcher

    def heal(self) -> None:
        """Forward everything from now on, that which was stalled or held too."""
        self.watcher, self.delay_seconds, self.stalled = None, {}, set()
        self.loop.call_soon_threadsafe(self._freed.set)

    def reset(self) -> None:
        """Break every connection with RST, on both sides."""
        self.run(self._break(*DIRECTIONS))

    def half_open(self, direction: Direction) -> None:
        """Break only the leg *direction* of every connection; the other peer is told nothing, and hears nothing more."""
        self.run(self._break(direction))

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def _break(self, *directions: Direction) -> None:
        for pair, pumps in list(self.pairs.items()):
            if directions != DIRECTIONS:
                self.dead.append(pair)
                for pump in pumps:
                    pump.cancel()
            for direction, leg in zip(DIRECTIONS, pair, strict=True):
                if direction in directions:
                    leg.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    leg.transport.abort()
                    self.counts["broken"] += 1

    async def admit(self, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> bytes | None:
        """Hear what the client says first; what is returned is forwarded, and None turns the client away."""
        return b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        # Cancelled when the proxy ends, which asyncio would log as an error.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if (first := await self.admit(reader, writer)) is not None:
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
                server_writer.write(first)
                pair = (server_writer, writer)
                pumps = [self._pump(reader, server_writer, "to server"), self._pump(server_reader, writer, "to client")]
                self.pairs[pair] = [self.loop.create_task(pump) for pump in pumps]
                await asyncio.wait(self.pairs[pair])
                del self.pairs[pair]
                if pair in self.dead:
                    return
                server_writer.transport.abort()
        writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        buffer, typed = b"", direction == "to client"  # a client's first message has no type
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if direction in self.delay_seconds:
                    self.counts["delayed"] += 1
                    await asyncio.sleep(self.delay_seconds[direction])  # the fault itself
                await self._wait_while_stalled(direction)
                buffer += data
                while buffer and len(buffer) >= (size := _size(buffer, typed=typed) if self.is_postgres else len(buffer)):
                    message, buffer = buffer[:size], buffer[size:]
                    if self.is_postgres and typed and self.watcher and self.watcher(direction, message[:1], message[HEADER:]):
                        # Half a message of COPY has already gone when the stop comes; of the others nothing.
                        half = len(message) // 2 if message.startswith(b"d") else 0
                        writer.write(message[:half])
                        await writer.drain()
                        message = message[half:]
                        self.stalled |= set(DIRECTIONS)
                        self.held.set()
                        await self._wait_while_stalled(direction)
                    writer.write(message)
                    typed = True
                await writer.drain()
            await self._wait_while_stalled(direction)
        writer.transport.abort()  # one side is gone: tell the other

    async def _wait_while_stalled(self, direction: Direction) -> None:
        self.counts["stalled"] += direction in self.stalled
        while direction in self.stalled:
            self._freed.clear()
            await self._freed.wait()

    async def end(self) -> None:
        for leg in [leg for pair in [*self.pairs, *self.dead] for leg in pair]:
            leg.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class TlsProxy(Proxy):
    """One with a certificate, before a PostgreSQL that has none; what clients say outside of TLS is not answered."""

    def __init__(self, target_port: int, certificate: trustme.LeafCert) -> None:
        super().__init__(target_port)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        if await reader.read(len(SSL_REQUEST)) != SSL_REQUEST:
            return None
        writer.write(b"S")
        await writer.start_tls(self.context)
        self.counts["handshakes"] += 1
        return b""


def _size(buffer: bytes, *, typed: bool) -> int:
    """How long PostgreSQL's message at the beginning of *buffer* is, if that can be known yet."""
    start = int(typed)
    return start + int.from_bytes(buffer[start : start + 4]) if len(buffer) >= start + 4 else sys.maxsize


@contextlib.contextmanager
def forwarding(proxy: AnyProxy) -> Iterator[AnyProxy]:
    """Run *proxy* for as long as the `with` lasts."""
    thread = threading.Thread(target=proxy.loop.run_forever, daemon=True)
    thread.start()
    server = proxy.run(asyncio.start_server(proxy.serve, "127.0.0.1", 0))
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        proxy.loop.call_soon_threadsafe(server.close)
        proxy.run(proxy.end())
        proxy.loop.call_soon_threadsafe(proxy.loop.stop)
        thread.join(10)
        proxy.loop.close()
