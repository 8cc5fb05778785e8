"""One connection to SQS, without a network."""

from unittest import mock

import pytest

from loader.client import _Connection

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LAST = GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("asked", "data", "is_kept"),
    [
        (True, GOOD, True),
        (True, b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD, True),
        (True, GOOD + GOOD[:20], False),  # the rest of it would be taken for the next answer
        (True, LAST, False),
        (False, GOOD, False),
    ],
)
async def test_a_connection_is_kept_for_as_long_as_answers_belong_to_requests(*, asked: bool, data: bytes, is_kept: bool) -> None:
    connection, transport = _Connection(), mock.Mock(**{"is_closing.return_value": False})
    connection.connection_made(transport)
    reply = connection.exchange(b"request", 1) if asked else None
    connection.data_received(data)
    if reply:
        assert (await reply)[:2] == (200, b"{}")
    assert transport.abort.called is not is_kept


async def test_a_connection_that_closes_takes_no_request() -> None:
    connection = _Connection()
    connection.connection_made(mock.Mock(**{"is_closing.return_value": True}))
    with pytest.raises(ConnectionError):
        await connection.exchange(b"request", 1)
