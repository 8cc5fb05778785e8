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

pytestmark = pytest.mark.slow

COMMANDS = {
    "drain": ["python", "-m", "loader", "drain"],
    "migrate": ["python", "-m", "loader", "migrate"],
    "recovery": ["python", "-m", "recovery", "audit-head"],
    "dbt": ["python", "-m", "dbt.cli.main", "debug", "--connection"],
}


@dataclass(frozen=True)
class Servers:
    """The database behind a certificate for localhost; `strange` has one for the same name from somebody else."""

    known: TlsServer
    strange: TlsServer
    certificate: Path


@pytest.fixture
def servers(database: Database, tmp_path: Path) -> Iterator[Servers]:
    authorities, certificate = (trustme.CA(), trustme.CA()), tmp_path / "authority.pem"
    authorities[0].cert_pem.write_to_path(str(certificate))
    with ExitStack() as stack:
        known, strange = (
            stack.enter_context(serving(TlsServer(database.server.port, authority.issue_cert("localhost")))) for authority in authorities
        )
        yield Servers(known, strange, certificate)


@pytest.fixture
def verified(environment: dict[str, str], servers: Servers) -> dict[str, str]:
    """Variables for commands that connect to the known server and verify it."""
    server = {"PGHOST": "localhost", "PGPORT": str(servers.known.port)}
    return environment | server | {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(servers.certificate), "LOADER_HTTP_PORT": "0"}


def execute(command: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run *command*, and dbt in its folder."""
    return run(COMMANDS[command], environment, cwd=ROOT / "dbt_project" if command == "dbt" else ROOT, timeout_seconds=60)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_another_authority_knows_is_refused(verified: dict[str, str], servers: Servers, command: str) -> None:
    """And the one that is known is connected to; without verification, both would be."""
    done = execute(command, verified)
    assert done.returncode == 0, done.stdout + done.stderr
    assert servers.known.handshakes > 0

    stranger = verified | {"PGPORT": str(servers.strange.port)}
    done = execute(command, stranger)
    assert "certificate verify failed" in done.stdout + done.stderr
    assert servers.strange.handshakes == 0
    if command == "dbt":
        assert done.returncode == 1
    else:
        assert done.returncode == os.EX_UNAVAILABLE
        assert done.stderr.endswith("PGSSLMODE and PGSSLROOTCERT\n")
        assert done.stderr.count("\n") == 1

    assert execute(command, stranger | {"PGSSLMODE": "require", "PGSSLROOTCERT": ""}).returncode == 0
    assert servers.strange.handshakes > 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"PGHOST": "127.0.0.1"}, 'server certificate for "localhost" does not match host name "127.0.0.1"'),
        ({"PGPORT": "of the server itself"}, "server does not support SSL, but SSL was required"),
        ({"PGSSLROOTCERT": "/nonexistent.pem"}, 'root certificate file "/nonexistent.pem" does not exist'),
        ({"PGSSLMODE": "verify"}, 'invalid sslmode value: "verify"'),
    ],
    ids=["another name", "no TLS", "no authority", "no such mode"],
)
def test_what_cannot_be_verified_is_refused(verified: dict[str, str], database: Database, change: dict[str, str], reason: str) -> None:
    change = {"PGPORT": str(database.server.port)} if "PGPORT" in change else change
    done = execute("drain", verified | change)
    assert done.returncode == os.EX_UNAVAILABLE
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


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
