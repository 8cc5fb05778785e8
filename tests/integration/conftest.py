"""Other stand-ins for SQS, for what the sandbox's emulator cannot do, or to compare it with."""

import contextlib
import socket
from collections.abc import Iterator
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
