"""A server with a certificate, made of one that has none: answers PostgreSQL's request for TLS and forwards what comes out of it."""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator

import trustme

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class TlsServer:
    """Listens on `port` and forwards to *target_port* what clients say within TLS; what they say outside is not answered."""

    def __init__(self, target_port: int, certificate: trustme.LeafCert) -> None:
        self.target_port = target_port
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.port = 0
        self.handshakes = 0

    async def admit(self, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> bytes | None:
        """Hear what the client says first; what is returned is forwarded, and None turns the client away."""
        return b""

    async def serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if await loop.sock_recv(client, len(SSL_REQUEST)) != SSL_REQUEST:
            client.close()
            return
        await loop.sock_sendall(client, b"S")
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, client, ssl=self.context)
        except OSError:  # the client does not trust us
            return
        self.handshakes += 1
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            first = await self.admit(reader, writer)
            if first is not None:
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
                server_writer.write(first)
                await asyncio.gather(_pump(reader, server_writer), _pump(server_reader, writer))
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def serving(server: TlsServer) -> Iterator[TlsServer]:
    """Run *server* in a thread of its own."""
    loop = asyncio.new_event_loop()
    clients: set[asyncio.Task[None]] = set()

    async def accept() -> None:
        while True:
            client, _ = await loop.sock_accept(listener)
            client.settimeout(0)
            clients.add(loop.create_task(server.serve(client)))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        server.port = listener.getsockname()[1]
        accepting = loop.create_task(accept())
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield server
        finally:

            async def end() -> None:
                tasks = [accepting, *clients]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

            asyncio.run_coroutine_threadsafe(end(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
