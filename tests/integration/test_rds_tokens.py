"""Where RDS_IAM_AUTH asks for it, each connection has a token of its own that AWS's credentials signed, and nobody else gets to see it."""

import asyncio
import datetime as dt
import hashlib
import hmac
import os
import struct
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from sandbox import postgres
from sandbox.processes import free_port, wait_until
from sandbox.sqs import REGION
from tests.support import ROOT, Database, Queue, run
from tests.support import environment as environment_of
from tests.tls import TlsServer, serving

pytestmark = pytest.mark.slow

ACCESS_KEY = "AKIDEXAMPLE"
SECRET = "a-made-up-secret"
SESSION = "a-made-up-session"
CLEARTEXT_PASSWORD = struct.pack("!cii", b"R", 8, 3)
TRUSTED = "host all all 127.0.0.1/32 trust\n"
CREDENTIALS = """
    <AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
    <AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{session}</SessionToken>
    <Expiration>{expiry}</Expiration>
    </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>
"""
REFUSAL = "<ErrorResponse><Error><Code>{code}</Code><Message>a-made-up-token is not taken</Message></Error></ErrorResponse>"


def hmac_sha256(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def wrong_with(token: str, user: str, port: int) -> str | None:
    """What RDS would find wrong with *token*, by AWS's signature version 4; None when nothing is."""
    url = urllib.parse.urlsplit(f"https://{token}")
    said = dict(urllib.parse.parse_qsl(url.query))
    signature = said.pop("X-Amz-Signature")
    stamp = said["X-Amz-Date"]
    scope = f"{stamp[:8]}/{REGION}/rds-db/aws4_request"
    expected = {
        "Action": "connect",
        "DBUser": user,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{ACCESS_KEY}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": "900",
        "X-Amz-SignedHeaders": "host",
    }
    if "X-Amz-Security-Token" in said:
        expected["X-Amz-Security-Token"] = SESSION
    if said != expected or url.netloc != f"localhost:{port}":
        return f"it says {url.netloc}, {said}"
    query = urllib.parse.urlencode(sorted(said.items()), quote_via=urllib.parse.quote, safe="")
    request = "\n".join(["GET", "/", query, f"host:localhost:{port}\n", "host", hashlib.sha256(b"").hexdigest()])
    to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac_sha256(key, part)
    return None if hmac_sha256(key, to_sign).hex() == signature else "its signature is another"


class Rds(TlsServer):
    """Asks for a password in clear text, as RDS does within TLS, takes a token once, and lets in whom it is for."""

    def __init__(self, target_port: int, certificate: trustme.LeafCert) -> None:
        super().__init__(target_port, certificate)
        self.tokens: list[tuple[str, str]] = []  # each with its user

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        length = await reader.readexactly(4)
        startup = await reader.readexactly(int.from_bytes(length) - 4)
        words = startup[4:].split(b"\0")
        user = dict(zip(words[::2], words[1::2], strict=False))[b"user"].decode()
        writer.write(CLEARTEXT_PASSWORD)
        _, password_length = struct.unpack("!ci", await reader.readexactly(5))
        token = (await reader.readexactly(password_length - 4)).rstrip(b"\0").decode()
        wrong = "it was used before" if (user, token) in self.tokens else wrong_with(token, user, self.port)
        self.tokens.append((user, token))
        if wrong is None:
            return length + startup
        said = f'SFATAL\0C28000\0MPAM authentication failed for user "{user}": {wrong}\0\0'.encode()
        writer.write(b"E" + struct.pack("!i", len(said) + 4) + said)
        return None


class Sts(ThreadingHTTPServer):
    """Gives a role's credentials, which are so near their end that they are asked for anew each time, or refuses with *refusal*."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StsAnswer)
        self.refusal: str | None = None
        self.refused = 0


class StsAnswer(BaseHTTPRequestHandler):
    server: Sts

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        expiry = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)
        answer = CREDENTIALS.format(key=ACCESS_KEY, secret=SECRET, session=SESSION, expiry=expiry.isoformat())
        if self.server.refusal:
            self.server.refused += 1
            answer = REFUSAL.format(code=self.server.refusal)
        self.send_response(400 if self.server.refusal else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@pytest.fixture
def sts() -> Iterator[Sts]:
    with Sts() as made:
        thread = threading.Thread(target=made.serve_forever, args=[0.01])
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A server that lets in whoever comes from this machine: who that is has been found out before."""
    directory = tmp_path_factory.mktemp("trusting")
    with postgres.throwaway(directory, "unused") as server:
        postgres.stop(server)
        (server.data / "pg_hba.conf").write_text(TRUSTED)
        postgres.start(server)
        yield Database(server, "postgres", {})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def rds(server: Database, authority: trustme.CA) -> Iterator[Rds]:
    made = Rds(server.server.port, authority.issue_cert("localhost"))
    with serving(made):
        yield made


@pytest.fixture
def environment(server: Database, rds: Rds, authority: trustme.CA, queue: Queue, tmp_path: Path) -> dict[str, str]:
    """Variables for commands that have no password."""
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    known = {name: value for name, value in environment_of(server, queue).items() if not name.endswith("_PASSWORD")}
    return known | {
        "PGHOST": "localhost",
        "PGPORT": str(rds.port),
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(tmp_path / "authority.pem"),
        "RDS_IAM_AUTH": "true",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "LOADER_HTTP_PORT": "0",
        "DBT_TARGET_PATH": str(tmp_path / "target"),
        "DBT_LOG_PATH": str(tmp_path / "logs"),
        "PWD": str(tmp_path),  # no .env there that could have a password
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def role(environment: dict[str, str], sts: Sts, tmp_path: Path) -> dict[str, str]:
    """Variables for commands that have no credentials but those that STS gives for a web identity."""
    (tmp_path / "identity").write_text("a-made-up-token")
    without_keys = {name: value for name, value in environment.items() if name not in {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}}
    return without_keys | {
        "AWS_ROLE_ARN": "arn:aws:iam::000000000000:role/loader",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "identity"),
        "AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{sts.server_port}",
        "AWS_MAX_ATTEMPTS": "1",
    }


def execute(environment: dict[str, str], *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run(["python", "-m", *words], environment, cwd=cwd or Path(environment["PWD"]), timeout_seconds=100)


def test_every_program_connects_with_a_token_and_no_password(environment: dict[str, str], rds: Rds, queue: Queue, tmp_path: Path) -> None:
    migrated = execute(environment, "loader", "migrate")
    queue.send("no login")
    drained = execute(environment, "loader", "drain")
    audited = execute(environment, "recovery", "audit-head")
    token = execute(environment, "loader", "rds-token", "transformer").stdout.strip()
    dbt = execute(environment | {"TRANSFORMER_PASSWORD": token}, "dbt.cli.main", "debug", "--connection", cwd=ROOT / "dbt_project")
    outputs = ""
    for done in (migrated, drained, audited, dbt):
        assert done.returncode == 0, done.stdout + done.stderr
        outputs += done.stdout + done.stderr
    assert [user for user, _ in rds.tokens] == ["postgres", "loader", "privacy_officer", "transformer"]
    outputs += "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    for _, sent in rds.tokens:
        assert sent.rpartition("=")[2] not in outputs  # the signature; the rest is no secret


def start_follow(environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "loader", "follow"]
    return subprocess.Popen(command, env=environment, cwd=environment["PWD"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until_landed(server: Database, count: int, follow: subprocess.Popen[str]) -> None:
    assert wait_until(lambda: server.value("select count(*) from staging.raw_logins") == count or follow.poll() is not None, 60)
    assert follow.poll() is None


def test_a_loader_that_connects_anew_has_a_new_token(environment: dict[str, str], server: Database, rds: Rds, queue: Queue) -> None:
    assert execute(environment, "loader", "migrate").returncode == 0
    before = server.value("select count(*) from staging.raw_logins")
    queue.send("first")
    follow = start_follow(environment)
    try:
        wait_until_landed(server, before + 1, follow)
        # a token says the second that it was made in
        stamp = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}"
        assert wait_until(lambda: f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}" != stamp, 10)
        assert server.value("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'loader'") == 1
        queue.send("second")
        wait_until_landed(server, before + 2, follow)
    finally:
        follow.terminate()
        output, _ = follow.communicate(timeout=60)
    first, second = (token for user, token in rds.tokens if user == "loader")
    assert first != second
    assert "PostgreSQL failed" in output  # the fault did happen
    for token in (first, second):
        assert token.rpartition("=")[2] not in output


def test_a_loader_that_is_refused_credentials_asks_until_it_has_them(
    role: dict[str, str], server: Database, sts: Sts, queue: Queue
) -> None:
    assert execute(role, "loader", "migrate").returncode == 0
    before = server.value("select count(*) from staging.raw_logins")
    queue.send("first")
    follow = start_follow(role)
    try:
        wait_until_landed(server, before + 1, follow)
        sts.refusal = "Throttling"
        assert server.value("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'loader'") == 1
        queue.send("second")
        assert wait_until(lambda: sts.refused > 1 or follow.poll() is not None, 60)
        sts.refusal = None
        wait_until_landed(server, before + 2, follow)
    finally:
        follow.terminate()
        output, _ = follow.communicate(timeout=60)
    assert follow.returncode == 0, output
    assert "AWS gives no credentials to sign an RDS token (Throttling); " in output


@pytest.mark.parametrize("refusal", ["AccessDenied", None], ids=["refused", "unreachable"])
def test_credentials_that_aws_does_not_give_are_one_line(role: dict[str, str], rds: Rds, sts: Sts, refusal: str | None) -> None:
    sts.refusal = refusal
    nowhere = {} if refusal else {"AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{free_port()}"}
    done = execute(role | nowhere, "loader", "rds-token", "x")
    assert done.returncode == (os.EX_NOPERM if refusal else os.EX_UNAVAILABLE), done.stderr
    assert done.stderr == (
        f"AWS gives no credentials to sign an RDS token ({refusal or 'EndpointConnectionError'}); "
        "check the role or the profile of this machine, and its way to AWS\n"
    )
    assert bool(sts.refused) == bool(refusal)
    assert not rds.tokens


@pytest.mark.parametrize("command", [["loader", "drain"], ["loader", "migrate"], ["recovery", "audit-head"]], ids=" ".join)
def test_no_program_sends_a_token_where_it_would_be_wrong_and_what_rds_refuses_is_one_line(
    environment: dict[str, str], rds: Rds, command: list[str]
) -> None:
    """What is wrong is tried out one by one on `token_for`, which all of them call."""
    done = execute(environment | {"PGSSLMODE": "require"}, *command)
    assert done.returncode == os.EX_CONFIG, done.stderr
    assert done.stderr.startswith("PGSSLMODE is require, and an RDS token is sent to a verified server alone; set it to verify-full")
    assert not rds.tokens

    done = execute(environment | {"AWS_SECRET_ACCESS_KEY": "another"}, *command)
    assert done.returncode == os.EX_NOPERM, done.stderr
    assert "its signature is another" in done.stderr
    assert "rds-db:connect" in done.stderr
    assert done.stderr.count("\n") == 1
    ((_, token),) = rds.tokens
    assert token.rpartition("=")[2] not in done.stderr
