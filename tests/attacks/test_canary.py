"""A personal value in what fails on purpose is in no log, artefact, metric, error or statistics view afterwards.

The server logs all that PostgreSQL can log, and the database's own log settings are off: a server that is managed by others may be so.
"""

import contextlib
import re
import shutil
import signal
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest

from loader.errors import LoaderError
from loader.migrate import migrate
from sandbox import processes
from tests import canaries, forks, support
from tests.attacks.conftest import Talkative
from tests.support import DATABASE_FILES, ROOT, Queue

WAIT_SECONDS = 60
# an error prints the first 64 bytes of a column
SHORT = f"{canaries.DEVICE_ID} from {canaries.IPV4}"


def test_canary_in_a_load_that_fails(talkative: Talkative, queue: Queue) -> None:
    """A constraint refuses the row, in the one place whose error prints it."""
    environ = support.environment(talkative.database, queue)
    talkative.database.execute(
        "select staging.ensure_partitions(array[current_date - 1, current_date, current_date + 1])",
        "alter table staging.raw_logins add constraint short check (length(body) < 10)",
    )
    talkative.mark()
    queue.send(SHORT)
    failed = support.run(["python", "-m", "loader", "drain"], environ)
    assert failed.returncode not in {0, -signal.SIGTERM}, failed.stdout
    assert 'violates check constraint "short"' in talkative.logged()
    talkative.assert_nothing_leaked(failed.stdout, failed.stderr)

    talkative.database.execute("alter table staging.raw_logins disable row level security")
    queue.send(SHORT)
    support.run(["python", "-m", "loader", "drain"], environ)
    assert canaries.found_in(talkative.logged())


@pytest.mark.slow
def test_canary_in_a_load_that_fails_for_a_while_and_its_metrics(talkative: Talkative, queue: Queue, tmp_path: Path) -> None:
    """It is in what `follow` prints and in its metrics neither while the server lands nothing nor when it lands again."""
    port = processes.free_port()
    environ = support.environment(talkative.database, queue) | {"LOADER_HTTP_PORT": str(port)}
    output, metrics = tmp_path / "output", ""

    def scraped(line: str) -> bool:
        nonlocal metrics
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            metrics += response.read().decode()
        return bool(re.search(line, metrics, re.MULTILINE)) or not follow.is_alive()

    with talkative.database.connect() as connection:
        connection.execute(
            "create function staging.full_disk() returns trigger language plpgsql as "
            "$$ begin raise 'no space left on device' using errcode = 'disk_full'; end $$"
        )
        connection.execute("create trigger full_disk before insert on staging.raw_logins for each row execute function staging.full_disk()")
        talkative.mark()
        queue.send(canaries.login(), canaries.login()[:-1])
        follow = forks.start(forks.command, environ, output, "loader", ["follow"], ROOT)
        try:
            assert processes.wait_until(lambda: scraped("^loader_database_errors_total [1-9]"), WAIT_SECONDS)
            connection.execute("drop trigger full_disk on staging.raw_logins")
            assert processes.wait_until(lambda: scraped(r"^loader_messages_landed_total 2\.0"), WAIT_SECONDS)
        finally:
            follow.terminate()
            assert support.ended(follow) == 0
    assert "no space left on device" in output.read_text()
    talkative.assert_nothing_leaked(output.read_text(), metrics)


def test_canary_in_a_migration_that_fails(talkative: Talkative, tmp_path: Path) -> None:
    """A new file casts what is in staging, and the error quotes the value."""
    support.land(talkative.database, [canaries.NO_ADDRESS])
    files = shutil.copytree(DATABASE_FILES, tmp_path / "database")
    (files / "9_broken.sql").write_text("select body::inet from staging.raw_logins;")

    def fail() -> LoaderError:
        talkative.mark()
        with talkative.database.connect() as connection, pytest.raises(LoaderError) as failure:
            migrate(connection, files, {})
        return failure.value

    error = fail()
    assert str(error) == "database/9_broken.sql was refused: SQLSTATE 22P02; nothing was changed"
    assert isinstance(error.__cause__, psycopg.Error)
    assert canaries.found_in(str(error.__cause__))  # the server did tell us
    talkative.assert_nothing_leaked(str(error))

    begin = files / "0_migrate.sql"
    begin.write_text(begin.read_text().replace("and rolsuper", "and false"))
    fail()
    assert canaries.found_in(talkative.logged())


def test_canary_in_a_dbt_run_that_fails(talkative: Talkative, tmp_path: Path) -> None:
    """It fails in the middle of the masking, for the key of a domain is gone."""
    database = talkative.database
    support.land(database, canaries.events())
    database.execute("update masking.keys set domain = 'gone' where domain = 'network'")
    talkative.mark()
    failed = support.dbt(database, ["run"], tmp_path)
    assert failed.returncode == 1
    assert "no masking key for domain network" in failed.stdout
    talkative.assert_nothing_leaked(failed.stdout, failed.stderr, folder=tmp_path)

    # the guard removed: the cast is not tried first
    database.execute(
        "update masking.keys set domain = 'network' where domain = 'gone'",
        "create or replace function masking.canonical_ip(value text) returns text "
        "language plpgsql immutable strict as 'begin return host(value::inet); end'",
    )
    failed = support.dbt(database, ["run"], tmp_path)
    assert failed.returncode == 1
    assert canaries.found_in(failed.stdout) == {canaries.NO_ADDRESS}
    assert canaries.found_in(talkative.logged())
    assert canaries.found_under(tmp_path / "logs")
    assert canaries.found_under(tmp_path / "target")


def test_canary_in_a_dbt_test_that_fails(talkative: Talkative, tmp_path: Path) -> None:
    """What fails is a column that holds a personal value; the test counts it and shows none."""
    database = talkative.database
    support.land(database, canaries.events())
    assert support.dbt(database, ["run"], tmp_path).returncode == 0
    talkative.assert_nothing_leaked(folder=tmp_path)
    unmask = f"update marts.user_logins set masked_device_id = '{canaries.DEVICE_ID}'"
    database.execute(unmask)
    talkative.mark()
    failed = support.dbt(database, ["test", "--select", "analytics_user_logins"], tmp_path)
    database.execute("update marts.user_logins set masked_device_id = masked_ip", "select pg_stat_statements_reset()")
    assert failed.returncode == 1
    assert re.search("FAIL [0-9]+ token_format_analytics_user_logins_masked_device_id", failed.stdout)
    talkative.assert_nothing_leaked(failed.stdout, failed.stderr, folder=tmp_path)

    # the guards removed: a test that shows what it finds, in a table; and one that casts before it looks
    project = shutil.copytree(ROOT / "dbt_project", tmp_path / "project", ignore=shutil.ignore_patterns("target", "logs"))
    settings = project / "dbt_project.yml"
    settings.write_text(settings.read_text().replace("+store_failures: false", "+store_failures: true\n  +schema: analytics"))
    shows = project / "tests" / "generic" / "token_format.sql"
    shows.write_text(shows.read_text().replace("select 1 as malformed", "select {{ column_name }} as malformed"))
    (project / "tests" / "assert_casts.sql").write_text("select 1 from {{ ref('user_logins') }} where masked_device_id::uuid is null")
    database.execute(unmask)
    outputs = tmp_path / "careless"
    careless = support.dbt(database, ["test", "--select", "analytics_user_logins", "assert_casts"], outputs, project)
    with database.connect() as connection:
        stored = {name for name, text in support.readable(connection).items() if canaries.found_in(text)}
    assert "analytics.token_format_analytics_user_logins_masked_device_id" in stored
    for found in (canaries.found_in(careless.stdout), canaries.found_under(outputs / "logs"), canaries.found_under(outputs / "target")):
        assert canaries.DEVICE_ID in found
    assert canaries.found_in(talkative.logged())
