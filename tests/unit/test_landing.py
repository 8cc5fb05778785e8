"""What a failed landing does to the loader: it tries again, or ends; decided by SQLSTATE and by the kind of error, never by words."""

import os
from unittest import mock

import psycopg
import pytest
from psycopg import errors

from loader.errors import LoaderError, TemporaryError
from loader.landing import Landing
from loader.settings import LoaderSettings

SETTINGS = LoaderSettings(sqs_queue_url="http://192.0.2.1/0/queue", pghost="192.0.2.1")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.AdminShutdown(), None),
        (errors.ReadOnlySqlTransaction(), None),
        (errors.InternalError_(), None),
        (psycopg.OperationalError("the connection is lost"), None),
        (psycopg.InterfaceError("the connection is closed"), None),
        # Two errors in answer to one command: its backend is terminated, and the connection closed, while it is on its way.
        (psycopg.InternalError("received 2 results from command 'COMMIT'"), None),
        (TimeoutError(), None),
        (LoaderError("AWS gives no credentials", os.EX_UNAVAILABLE), None),
        (errors.UndefinedTable(), os.EX_CONFIG),
        (errors.InsufficientPrivilege(), os.EX_NOPERM),
        (errors.DatatypeMismatch(), os.EX_SOFTWARE),
        (psycopg.DataError("cannot dump"), os.EX_SOFTWARE),
    ],
    ids=repr,
)
async def test_it_tries_again_or_ends_after(error: Exception, exit_code: int | None) -> None:
    with mock.patch.object(Landing, "_connect", side_effect=error), pytest.raises((TemporaryError, LoaderError)) as raised:
        await Landing(SETTINGS).land([])
    assert getattr(raised.value, "exit_code", None) == exit_code
