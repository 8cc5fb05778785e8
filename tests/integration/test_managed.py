"""The whole pipeline on a server as a provider gives it, also through a proxy that pools connections, as providers offer."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import processes
from sandbox.processes import HOST
from tests import canaries
from tests.managed import Managed, managed
from tests.recovery.conftest import Masked
from tests.support import Queue, environment, run

pytestmark = pytest.mark.slow

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
# With pool_mode=transaction the loader's `set synchronous_commit` could miss the session that commits.
SETTINGS = """
[databases]
* = host={host} port={server.port}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = session
ignore_startup_parameters = extra_float_digits
"""


@pytest.fixture(params=["itself", "a pool"])
def provided(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Managed]:
    """The server itself, or the same behind pgbouncer."""
    with managed(tmp_path, "not-a-secret") as server:
        if request.param == "itself":
            yield server
            return
        if PGBOUNCER is None:
            pytest.skip("there is no pgbouncer on this machine")
        users, settings, port = tmp_path / "users", tmp_path / "pgbouncer.ini", processes.free_port()
        names = (
            "postgres",
            "administrator",
            "second_administrator",
            "loader",
            "transformer",
            "pii_requester",
            "pii_approver",
            "privacy_officer",
        )
        users.write_text("".join(f'"{name}" "not-a-secret"\n' for name in names))
        settings.write_text(SETTINGS.format(host=HOST, server=server, port=port, users=users))
        for path in (users, settings):
            processes.own_by_unprivileged(path)
        with (tmp_path / "pgbouncer.log").open("w") as log:
            pool = subprocess.Popen([*processes.unprivileged_prefix(), PGBOUNCER, str(settings)], stderr=log)
            try:
                assert processes.wait_until(lambda: not processes.port_is_free(port), 10), log.name
                yield replace(server, port=port)
            finally:
                pool.terminate()
                pool.wait(10)


def test_it_migrates_loads_masks_and_does_each_act_of_recovery(provided: Managed, queue: Queue, tmp_path: Path) -> None:
    with provided.administrator.connect() as administrator:
        administrator.execute("create database logins")
    roles = ("loader", "transformer", "pii_requester", "pii_approver", "privacy_officer")
    logins = Masked(provided, "logins", dict.fromkeys(roles, "not-a-secret"))
    variables = environment(logins, queue, tmp_path)
    queue.send(canaries.login(user_id="erased"), canaries.login(user_id="kept"), "{}")
    for command in ("migrate", "drain", "migrate"):
        done = run(["python", "-m", "loader", command], variables)
        assert done.returncode == 0, done.stderr
    assert queue.depth() == 0
    logins.dbt("build", "--exclude", "assert_few_messages_are_rejected")
    assert logins.rows("select (select count(*) from marts.user_logins), (select count(*) from marts.rejected_logins)") == [(2, 1)]

    token = logins.value("select masked_ip from marts.user_logins where user_id = 'kept'")
    ((revealed, value),) = logins.reveal(token)
    assert (revealed, value) == (token, canaries.IPV4)
    assert logins.recovery("erase", stdin="erased\n") == "erased: 1 raw messages, 1 logins, 0 rejections\n"
    assert logins.recovery("expire") == "0 days expired\n"
    assert "1 logins changed" in logins.recovery("rotate")
    assert logins.value("select masked_ip from marts.user_logins") != token
    assert logins.recovery("verify-audit").endswith("entries hold\n")
