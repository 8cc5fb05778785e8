"""The server's log keeps no personal value of whoever works on this database, a person with a login of their own included."""

import psycopg
import pytest

from tests import canaries
from tests.attacks.conftest import Talkative
from tests.support import DATABASE_FILES, Database

pytestmark = pytest.mark.slow

GROUPS = ("analyst", "reporter", "pii_requester", "pii_approver", "privacy_officer", "transformer", "loader")
SETTINGS = {"log_min_messages": "notice", "log_parameter_max_length": "-1", "log_min_error_statement": "notice"}


def fail_and_pass_a_parameter(database: Database, role: str) -> None:
    with database.connect(role) as connection:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=canaries.NO_ADDRESS):
            connection.execute(f"select (chr({ord(canaries.NO_ADDRESS[0])}) || '{canaries.NO_ADDRESS[1:]}')::inet".encode())
        connection.execute("select %s", [canaries.DEVICE_ID])


def test_errors_and_parameters_of_a_person_are_not_logged_and_nobody_can_have_them_logged(talkative: Talkative) -> None:
    database = Database(talkative.database.server, talkative.database.name, {f"person_{group}": "made-up" for group in GROUPS})
    with database.connect() as administrator:
        administrator.execute((DATABASE_FILES / "7_privileges.sql").read_bytes())  # the database's own settings
        # auto_explain writes plans with what is in them, whatever is said of errors and parameters
        administrator.execute(f"alter database {database.name} set auto_explain.log_min_duration = -1".encode())
        for group in GROUPS:
            administrator.execute(f"create role person_{group} login password 'made-up' in role {group}".encode())
        talkative.mark()
        for person in database.passwords:
            fail_and_pass_a_parameter(database, person)
            for name, value in SETTINGS.items():
                with database.connect(person) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"set {name} = {value}".encode())
        assert len(talkative.logged()) > 100
        assert not canaries.found_in(talkative.logged())

        # said of the group, as it is usual, it does not hold for its members
        for name in SETTINGS:
            administrator.execute(f"alter database {database.name} reset {name}".encode())
        for group in GROUPS:
            administrator.execute(f"alter role {group} set log_min_messages = log".encode())
            administrator.execute(f"alter role {group} set log_parameter_max_length = 0".encode())
            talkative.mark()
            fail_and_pass_a_parameter(database, f"person_{group}")
            assert canaries.found_in(talkative.logged()) == {canaries.NO_ADDRESS, canaries.DEVICE_ID}
            administrator.execute(f"drop role person_{group}".encode())
