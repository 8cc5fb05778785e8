"""Whatever connects with PGSSLMODE=verify-full does so to a server that has proved who it is, and to no other."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from sandbox.processes import wait_until
from tests.support import ROOT, Database, Queue, run
from tests.tls import TlsServer, serving

COMMANDS = {
    "drain": ["python", "-m", "loader", "drain"],
    "follow": ["python", "-m", "loader", "follow"],
    "migrate": ["python", "-m", "loader", "migrate"],
    "recovery": ["python", "-m", "recovery", "audit-head"],
    "dbt": ["python", "-m", "dbt.cli.main", "debug", "--connection"],
}
ENDING = [name for name in COMMANDS if name != "follow"]  # where all is well


@dataclass(frozen=True)
class Servers:
    """The database behind a certificate for localhost; `strange` has one for the same name from somebody else."""

    known: TlsServer
    strange: TlsServer
    certificate: Path


@pytest.fixture(scope="module")
def authorities() -> tuple[trustme.CA, trustme.CA]:
    return trustme.CA(), trustme.CA()


@pytest.fixture
def servers(database: Database, authorities: tuple[trustme.CA, trustme.CA], tmp_path: Path) -> Iterator[Servers]:
    certificate = tmp_path / "authority.pem"
    authorities[0].cert_pem.write_to_path(str(certificate))
    with ExitStack() as stack:
        known, strange = (
            stack.enter_context(serving(TlsServer(database.server.port, authority.issue_cert("localhost")))) for authority in authorities
        )
        yield Servers(known, strange, certificate)


@pytest.fixture
def verified(environment: dict[str, str], servers: Servers) -> dict[str, str]:
    """Variables for commands that connect to the known server and verify it."""
    return environment | {
        "PGHOST": "localhost",
        "PGPORT": str(servers.known.port),
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(servers.certificate),
        "LOADER_HTTP_PORT": "0",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def execute(command: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run *command*, and dbt in its folder."""
    return run(COMMANDS[command], environment, cwd=ROOT / "dbt_project" if command == "dbt" else ROOT, timeout_seconds=60)


def assert_refused(command: str, environment: Mapping[str, str], reason: str) -> None:
    """It ends, says *reason*, and says so in one line where the line is ours."""
    done = execute(command, environment)
    if command == "dbt":
        assert done.returncode == 1, done.stdout
        assert reason in done.stdout
        return
    assert done.returncode == os.EX_UNAVAILABLE, done.stderr
    assert reason in done.stderr
    assert done.stderr.endswith("PGSSLMODE and PGSSLROOTCERT\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ENDING)
def test_a_verified_server_is_connected_to_with_tls_and_a_password(verified: dict[str, str], servers: Servers, command: str) -> None:
    """The password is checked by scram-sha-256, which takes a server without channel binding for what it is."""
    done = execute(command, verified)
    assert done.returncode == 0, done.stdout + done.stderr
    assert servers.known.handshakes > 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_another_authority_knows_is_refused(verified: dict[str, str], servers: Servers, command: str) -> None:
    assert_refused(command, verified | {"PGPORT": str(servers.strange.port)}, "certificate verify failed")
    assert servers.strange.handshakes == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_of_another_name_is_refused(verified: dict[str, str], command: str) -> None:
    reason = 'server certificate for "localhost" does not match host name "127.0.0.1"'
    assert_refused(command, verified | {"PGHOST": "127.0.0.1"}, reason)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_without_tls_is_refused(verified: dict[str, str], database: Database, command: str) -> None:
    assert_refused(command, verified | {"PGPORT": str(database.server.port)}, "server does not support SSL, but SSL was required")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_authority_whose_file_is_not_there_is_refused(verified: dict[str, str], command: str) -> None:
    assert_refused(command, verified | {"PGSSLROOTCERT": "/nonexistent.pem"}, 'root certificate file "/nonexistent.pem" does not exist')


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mode_that_libpq_does_not_know_is_refused(verified: dict[str, str], command: str) -> None:
    assert_refused(command, verified | {"PGSSLMODE": "verify"}, 'invalid sslmode value: "verify"')


@pytest.mark.parametrize("command", ENDING)
def test_without_verification_they_would_connect_to_anybody(verified: dict[str, str], servers: Servers, command: str) -> None:
    """The control: the servers that are refused above do work."""
    anybody = verified | {"PGHOST": "127.0.0.1", "PGPORT": str(servers.strange.port), "PGSSLMODE": "require", "PGSSLROOTCERT": ""}
    done = execute(command, anybody)
    assert done.returncode == 0, done.stdout + done.stderr
    assert servers.strange.handshakes > 0


def test_a_loader_that_has_begun_lands_nothing_on_another_server(
    verified: dict[str, str], servers: Servers, database: Database, queue: Queue
) -> None:
    """It connects anew, and the server that answers then has another's certificate; it goes on when the right one is back."""
    queue.send("first")
    command = [sys.executable, "-m", "loader", "follow"]
    follow = subprocess.Popen(command, env=verified, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert wait_until(lambda: database.value("select count(*) from staging.raw_logins") == 1 or follow.poll() is not None, 60)
        known = servers.known.context
        servers.known.context = servers.strange.context
        database.rows("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'loader' and datname = current_database()")
        queue.send("second")
        handshakes = servers.known.handshakes
        assert follow.stdout
        said = next(line for line in follow.stdout if "certificate verify failed" in line)
        assert database.value("select count(*) from staging.raw_logins") == 1
        assert servers.known.handshakes == handshakes
        servers.known.context = known
        assert wait_until(lambda: database.value("select count(*) from staging.raw_logins") == 2, 60), said
    finally:
        follow.terminate()
        follow.communicate(timeout=60)
    assert follow.returncode == 0
