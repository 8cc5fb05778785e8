"""As little client as there can be: what the stub, this machine and asyncio allow.

It sends signed requests, as every client must, parses nothing but lengths and receipt handles, and lands nothing.
"""

import asyncio
import functools
import os
import re
import time
import urllib.parse
from collections import deque

from botocore.credentials import ReadOnlyCredentials

from loader.client import Endpoint, signed

HANDLE = re.compile(rb'"ReceiptHandle":"([^"]*)"')
LENGTH = re.compile(rb"Content-Length: (\d+)")
RECEIVE = b'{"MaxNumberOfMessages":10,"WaitTimeSeconds":1}'


ENDPOINT = Endpoint.parse(os.environ.get("AWS_ENDPOINT_URL", "http://unused"), "us-east-1")
CREDENTIALS = ReadOnlyCredentials("stub", "stub", None)


def request(action: str, body: bytes) -> bytes:
    """A signed call."""
    return signed(ENDPOINT, CREDENTIALS, action, body, time.time() // 60 * 60)


class Client(asyncio.Protocol):
    """One connection: sends a request, and the next one when the answer is complete."""

    def __init__(self, pool: "Pool", *, receives: bool) -> None:
        """Receive, or delete what others received."""
        self.pool = pool
        self.receives = receives
        self.buffer = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # create_connection makes no other
        self.transport = transport
        self.next()

    def next(self) -> None:
        """Send the next request, if there is one."""
        if self.receives:
            self.transport.write(self.pool.receive)
        elif self.pool.deletes:
            self.transport.write(self.pool.deletes.popleft())
        else:
            self.pool.idle.append(self)

    def data_received(self, data: bytes) -> None:
        """Collect the answer."""
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        length = LENGTH.search(self.buffer)
        if end < 0 or not length or len(self.buffer) < end + 4 + int(length[1]):
            return
        answer, self.buffer = self.buffer, b""
        handles = HANDLE.findall(answer) if self.receives else []
        if self.receives and not handles:
            self.pool.finished()
            return
        self.next()
        if handles:
            entries = b",".join(b'{"Id":"%d","ReceiptHandle":"%s"}' % pair for pair in enumerate(handles))
            self.pool.deletes.append(request("DeleteMessageBatch", b'{"Entries":[' + entries + b"]}"))
            if self.pool.idle:
                self.pool.idle.pop().next()


class Pool:
    """What the connections share."""

    def __init__(self, receivers: int) -> None:
        """Count down the *receivers* that found the queue empty."""
        self.receive = request("ReceiveMessage", RECEIVE)
        self.deletes: deque[bytes] = deque()
        self.idle: list[Client] = []
        self.receiving = receivers
        self.done = asyncio.Event()

    def finished(self) -> None:
        """A receiver got nothing."""
        self.receiving -= 1
        if not self.receiving:
            self.done.set()


async def main() -> None:
    """Empty the queue."""
    receivers = int(os.environ["LOADER_RECEIVERS"])
    pool = Pool(receivers)
    target = urllib.parse.urlsplit(os.environ["AWS_ENDPOINT_URL"])
    loop = asyncio.get_running_loop()
    for receives in (False, True):
        client = functools.partial(Client, pool, receives=receives)
        for _ in range(receivers):
            await loop.create_connection(client, str(target.hostname), int(target.port or 80))
    await pool.done.wait()
    # Long polling delays the last answers by a second, so the last deletes have been answered too.


if __name__ == "__main__":
    asyncio.run(main())
