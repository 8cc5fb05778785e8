"""What a failed landing does to the loader: it tries again, or ends; decided by SQLSTATE and by the kind of error, never by words."""

import asyncio
import os

import psycopg
import pytest
from psycopg import errors

from loader.errors import LoaderError, TemporaryError
from loader.landing import Landing
from loader.settings import LoaderSettings

SETTINGS = LoaderSettings(sqs_queue_url="http://192.0.2.1/0/queue", pghost="192.0.2.1")


def land_where(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Land a batch over a connection that fails with *error*."""

    async def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(Landing, "_connect", fail)
    asyncio.run(Landing(SETTINGS).land([]))


@pytest.mark.parametrize(
    "error",
    [
        errors.AdminShutdown(),
        errors.ReadOnlySqlTransaction(),
        errors.InternalError_(),
        psycopg.OperationalError("the connection is lost"),
        psycopg.InterfaceError("the connection is closed"),
        # Two errors in answer to one command: its backend is terminated, and the connection closed, while it is on its way.
        psycopg.InternalError("received 2 results from command 'COMMIT'"),
        TimeoutError(),
    ],
    ids=repr,
)
def test_it_tries_again_after(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TemporaryError):
        land_where(monkeypatch, error)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.UndefinedTable(), os.EX_CONFIG),
        (errors.InsufficientPrivilege(), os.EX_NOPERM),
        (errors.DatatypeMismatch(), os.EX_SOFTWARE),
        (psycopg.DataError("cannot dump"), os.EX_SOFTWARE),
    ],
    ids=repr,
)
def test_it_ends_after(error: Exception, exit_code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoaderError) as ended:
        land_where(monkeypatch, error)
    assert ended.value.exit_code == exit_code
