"""What compose.production.yaml does, tried from inside it: see production/compose.yaml. What is restored is restored between the tests."""

import os

import psycopg
import pytest

from tests.deploy.test_compose import OURS, Loader, connect, kill_and_crash, value, wait_until

pytestmark = pytest.mark.skipif("IN_PRODUCTION" not in os.environ, reason="runs inside the compose project of tests/deploy/production")

LOADER = Loader("loader", "kill-loader", "login-queue")
CONTENT = {
    "messages": "select count(*), md5(string_agg(message_id || body, '' order by message_id)) from staging.raw_logins",
    "logins": "select count(*), md5(string_agg(concat(message_id, masked_ip, masked_device_id), '' order by message_id)) "
    "from marts.user_logins",
    "keys": "select count(*), md5(string_agg(encode(inner_block || outer_block, 'hex'), '' order by domain, version)) from masking.keys",
    "waiting": "select count(*), null from staging.unjudged",
    "passwords": "select count(*), md5(string_agg(rolpassword, '' order by rolname)) from pg_authid",
}


def content(host: str) -> dict[str, tuple[object, ...] | None]:
    # the certificate is not for the name of the one that was restored
    with psycopg.connect(
        host=host, sslmode="verify-ca", user="postgres", password=os.environ["ADMIN_PASSWORD"], dbname="user_logins"
    ) as connection:
        return {name: connection.execute(query.encode()).fetchone() for name, query in CONTENT.items()}


def test_a_killed_loader_and_a_crashed_server_lose_nothing() -> None:
    sent = kill_and_crash(LOADER)
    assert value("select count(*) from staging.raw_logins where message_id = any(%s)", sent) == len(set(sent)) == len(sent) > 800
    wait_until(lambda: value("select count(*) from marts.user_logins where message_id = any(%s)", sent) == len(sent), "all masked")
    with connect("postgres") as administrator:
        # the copy is older than what was sent, so that the archive has something to give
        last = administrator.execute("select pg_walfile_name(pg_switch_wal())").fetchone()
        wait_until(lambda: archived() >= str(last and last[0]), "the last segment archived")


def archived() -> str:
    return str(value("select coalesce(last_archived_wal, '') from pg_stat_archiver", role="postgres"))


def test_what_was_restored_into_a_new_volume_is_the_same() -> None:
    before, restored = content(os.environ["PGHOST"]), content("restored")
    assert restored == before
    assert (before["messages"] or (0,))[0] == value("select count(*) from marts.user_logins where user_id = %s", OURS) > 800


def test_nothing_connects_without_tls() -> None:
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(sslmode="disable", user="postgres", password=os.environ["ADMIN_PASSWORD"])
