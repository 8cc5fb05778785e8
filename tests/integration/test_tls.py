"""Whatever connects does so to a server that has proved who it is; and with a token for it alone, where RDS_IAM_AUTH asks for that."""

import asyncio
import datetime as dt
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from loader.migrate import migrate
from sandbox import postgres
from sandbox.processes import wait_until
from tests.integration.conftest import Environment, scripted
from tests.proxies import TlsProxy, forwarding
from tests.support import DATABASE_FILES, ROOT, Database, Queue, run, running
from tests.support import environment as environment_of

pytestmark = pytest.mark.slow

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "a-made-up-secret"}
# Each program, by the user that it connects as.
COMMANDS = {
    "postgres": ["loader", "migrate"],
    "loader": ["loader", "drain"],
    "privacy_officer": ["recovery", "audit-head"],
    "transformer": ["dbt.cli.main", "debug", "--connection"],
}


class Rds(TlsProxy):
    """Asks for a password in clear text, as RDS does within TLS, and lets in whom a token is for, once."""

    def __init__(self, target_port: int, authority: trustme.CA) -> None:
        super().__init__(target_port, authority.issue_cert("localhost"))
        self.authority = authority
        self.tokens: list[tuple[str, str]] = []  # each with its user
        self.refuses = False

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        if await super().admit(reader, writer) is None:
            return None
        length = await reader.readexactly(4)
        startup = await reader.readexactly(int.from_bytes(length) - 4)
        words = startup[4:].decode().split("\0")
        user = dict(zip(words[::2], words[1::2], strict=False))["user"]
        writer.write(struct.pack("!cii", b"R", 8, 3))
        _, password_length = struct.unpack("!ci", await reader.readexactly(5))
        token = (await reader.readexactly(password_length - 4)).rstrip(b"\0").decode()
        is_right = token.startswith(f"localhost:{self.port}/?Action=connect&DBUser={user}&") and "X-Amz-Signature=" in token
        is_new = (user, token) not in self.tokens
        self.tokens.append((user, token))
        if is_right and is_new and not self.refuses:
            return length + startup
        said = f'SFATAL\0C28000\0MPAM authentication failed for user "{user}"\0\0'.encode()
        writer.write(b"E" + struct.pack("!i", len(said) + 4) + said)
        writer.close()
        return None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A server that lets in whoever comes from this machine: who that is has been found out before."""
    with postgres.throwaway(tmp_path_factory.mktemp("trusting"), "unused") as server:
        with server.connect() as connection:
            migrate(connection, DATABASE_FILES, {})
            (server.data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 trust\n")
            connection.execute("select pg_reload_conf()")
        yield Database(server, "postgres", {})


@pytest.fixture
def rds(server: Database) -> Iterator[Rds]:
    with forwarding(Rds(server.server.port, trustme.CA())) as proxy:
        yield proxy


@pytest.fixture
def stranger(server: Database) -> Iterator[TlsProxy]:
    """One that has a certificate for the same name from somebody else."""
    with forwarding(TlsProxy(server.server.port, trustme.CA().issue_cert("localhost"))) as proxy:
        yield proxy


@pytest.fixture
def environment(server: Database, rds: Rds, queue: Queue, tmp_path: Path) -> Environment:
    """Variables for commands that have no password."""
    rds.authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    variables = environment_of(server, queue, tmp_path) | {
        **KEYS,
        "PGHOST": "localhost",
        "PGPORT": str(rds.port),
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(tmp_path / "authority.pem"),
        "RDS_IAM_AUTH": "true",
        "LOADER_HTTP_PORT": "0",
        "PWD": str(tmp_path),
    }
    return {name: value for name, value in variables.items() if not name.endswith("_PASSWORD")}


def execute(environment: Environment, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one of the commands where there is no .env, and dbt in its folder."""
    folder = ROOT / "dbt_project" if words[0].startswith("dbt") else Path(environment["PWD"])
    return run(["python", "-m", *words], environment, cwd=folder, timeout_seconds=100)


def refused(environment: Environment, exit_code: int, *words: str) -> str:
    """Run a command of ours that ends with *exit_code*, and return the line that it says."""
    done = execute(environment, *words)
    assert done.returncode == exit_code, done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("user", COMMANDS)
def test_a_program_connects_with_a_token_and_to_no_server_that_another_authority_knows(
    environment: Environment, rds: Rds, stranger: TlsProxy, tmp_path: Path, user: str
) -> None:
    if user == "transformer":
        environment |= {"TRANSFORMER_PASSWORD": execute(environment, "loader", "rds-token", user).stdout.strip()}
    done = execute(environment, *COMMANDS[user])
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    ((sent_by, token),) = rds.tokens
    assert sent_by == user
    said += "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert token.rpartition("=")[2] not in said  # the signature; the rest is no secret

    if user != "transformer":
        # what else could be wrong is tried out one by one on `token_for`, which all of them call
        line = refused(environment | {"PGSSLMODE": "require"}, os.EX_CONFIG, *COMMANDS[user])
        assert line.startswith("PGSSLMODE is require, ")
        assert len(rds.tokens) == 1
        rds.refuses = True
        line = refused(environment, os.EX_NOPERM, *COMMANDS[user])
        assert "rds-db:connect" in line
        assert rds.tokens[1][1].rpartition("=")[2] not in line
        # a password, which RDS does not take of a member of rds_iam, nor of whoever created one
        variable = "ADMIN_PASSWORD" if user == "postgres" else f"{user.upper()}_PASSWORD"
        with_password = {"RDS_IAM_AUTH": "false", "PGSSLMODE": "require", variable: "made-up"}
        line = refused(environment | with_password, os.EX_NOPERM, *COMMANDS[user])
        assert "where RDS wants IAM, set RDS_IAM_AUTH" in line
        assert "made-up" not in line

    elsewhere = environment | {"PGPORT": str(stranger.port)}
    if user == "transformer":
        assert "certificate verify failed" in execute(elsewhere, *COMMANDS[user]).stdout
    else:
        line = refused(elsewhere, os.EX_UNAVAILABLE, *COMMANDS[user])
        assert "certificate verify failed" in line
        assert line.endswith("PGSSLMODE and PGSSLROOTCERT\n")
    assert stranger.counts["handshakes"] == 0
    # control: it is there, for whoever does not verify it
    careless = {"RDS_IAM_AUTH": "false", "PGSSLMODE": "require", "PGSSLROOTCERT": ""}
    assert execute(elsewhere | careless, *COMMANDS[user]).returncode == 0
    assert stranger.counts["handshakes"] > 0


REFUSAL = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>a-made-up-token is not taken</Message></Error></ErrorResponse>"


@pytest.mark.parametrize(("code", "exit_code"), [("AccessDenied", os.EX_NOPERM), ("EndpointConnectionError", os.EX_UNAVAILABLE)])
def test_credentials_that_aws_does_not_give_are_one_line(environment: Environment, tmp_path: Path, code: str, exit_code: int) -> None:
    (tmp_path / "identity").write_text("a-made-up-token")
    answer = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(REFUSAL)}\r\n\r\n{REFUSAL}".encode()
    with scripted(answer) as sts:
        role = {
            **dict.fromkeys(KEYS, ""),
            "AWS_ROLE_ARN": "arn:aws:iam::000000000000:role/loader",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "identity"),
            "AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{sts.port if exit_code == os.EX_NOPERM else 1}",
            "AWS_MAX_ATTEMPTS": "1",
        }
        line = refused(environment | role, exit_code, "loader", "rds-token", "x")
        assert bool(sts.requests) == (exit_code == os.EX_NOPERM)
    advice = "check the role or the profile of this machine, and its way to AWS"
    assert line == f"AWS gives no credentials to sign an RDS token ({code}); {advice}\n"


def test_a_loader_that_connects_anew_has_a_new_token_and_lands_nothing_on_another_server(
    environment: Environment, server: Database, rds: Rds, stranger: TlsProxy, queue: Queue
) -> None:
    """It asks for credentials until it has them, and for the right server until that is back."""
    folder = Path(environment["PWD"])
    given, withheld, config = folder / "given.json", folder / "withheld.json", folder / "config"
    # so near their end that they are asked for anew each time
    expiry = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)).isoformat()
    given.write_text(json.dumps({"Version": 1, "AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "made-up", "Expiration": expiry}))
    config.write_text(f"[default]\ncredential_process = /bin/cat {given}\n")
    count = "select count(*) from staging.raw_logins"
    before, variables = server.value(count), environment | dict.fromkeys(KEYS, "") | {"AWS_CONFIG_FILE": str(config)}
    with running("loader follow", variables, folder / "log", folder) as follow:

        def wait_until_landed(messages: int) -> None:
            assert wait_until(lambda: server.value(count) == before + messages, 60), follow.output

        queue.send("first")
        wait_until_landed(1)
        given.rename(withheld)
        assert server.value("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'loader'") == 1
        queue.send("second")
        assert wait_until(lambda: "AWS gives no credentials to sign an RDS token" in follow.output, 60)
        known, rds.context = rds.context, stranger.context
        withheld.rename(given)
        assert wait_until(lambda: "certificate verify failed" in follow.output, 60)
        assert server.value(count) == before + 1
        rds.context = known
        wait_until_landed(2)
        assert follow.end() == os.EX_OK
    first, second = (token for user, token in rds.tokens if user == "loader")
    assert first != second
    assert [token for token in (first, second) if token.rpartition("=")[2] in follow.output] == []
