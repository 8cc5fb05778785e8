"""Other stand-ins for SQS, for what the sandbox's emulator cannot do, or to compare it with."""

import contextlib
import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from benchmarks import stub as stubs
from benchmarks.stub import Stub
from sandbox.emulator import Emulator

Environment = dict[str, str]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stubs.running() as running:
        yield running


@pytest.fixture
def moto() -> Iterator[Emulator]:
    """Another emulator, in this process."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield Emulator(Path(), server.get_host_and_port()[1])
    server.stop()


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The port of a server that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


class Closing(bytes):
    """An answer after which the server closes the connection."""


@dataclass
class Script:
    """A server of HTTP that gives these answers in turn, and the last one again and again."""

    answers: tuple[bytes, ...]
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)


@contextlib.contextmanager
def scripted(*answers: bytes, family: socket.AddressFamily = socket.AF_INET, context: ssl.SSLContext | None = None) -> Iterator[Script]:
    script = Script(answers)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            script.connections.append(self.request)
            head = b""
            with contextlib.suppress(OSError):  # the client has gone
                while line := self.rfile.readline():
                    head += line
                    if line == b"\r\n":
                        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                        script.requests.append(head + self.rfile.read(int(length[1]) if length else 0))
                        head, answer = b"", answers[min(len(script.requests), len(answers)) - 1]
                        self.wfile.write(answer)
                        if isinstance(answer, Closing):
                            return

    class Server(socketserver.ThreadingTCPServer):
        address_family = family
        daemon_threads = True
        block_on_close = False

    with Server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), Handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        script.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield script
        server.shutdown()
