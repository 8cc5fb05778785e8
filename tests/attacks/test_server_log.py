"""The server's log keeps no personal value of whoever works on this database, a person with a login of their own included."""

from collections.abc import Iterator

import psycopg
import pytest

from loader.migrate import migrate
from tests import canaries
from tests.attacks.conftest import Talkative
from tests.support import DATABASE_FILES, Database

pytestmark = pytest.mark.slow

GROUPS = ("analyst", "pii_requester", "pii_approver", "privacy_officer", "transformer", "loader")


@pytest.fixture
def quiet(talkative: Talkative) -> Talkative:
    """A database with its own log settings, on a server that logs everything."""
    with talkative.database.connect() as connection:
        migrate(connection, DATABASE_FILES, {})
        # auto_explain writes plans with what is in them, whatever is said of errors and parameters
        connection.execute(f"alter database {talkative.database.name} set auto_explain.log_min_duration = -1".encode())
    return talkative


@pytest.fixture
def person(quiet: Talkative, request: pytest.FixtureRequest) -> Iterator[Database]:
    """The same database, and a password for `person`, who logs in as a member of a group."""
    with quiet.database.connect() as connection:
        connection.execute(f"create role person login password 'made-up' in role {request.param}".encode())
        yield Database(quiet.database.server, quiet.database.name, {"person": "made-up"})
        connection.execute("drop role person")


def fail_and_pass_a_parameter(database: Database, role: str) -> None:
    with database.connect(role) as connection:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=canaries.NO_ADDRESS):
            connection.execute(f"select (chr({ord(canaries.NO_ADDRESS[0])}) || '{canaries.NO_ADDRESS[1:]}')::inet".encode())
        connection.execute("select %s", [canaries.DEVICE_ID])


@pytest.mark.parametrize("person", GROUPS, indirect=True)
def test_errors_and_parameters_of_a_person_are_not_logged(quiet: Talkative, person: Database) -> None:
    quiet.mark()
    fail_and_pass_a_parameter(person, "person")
    assert len(quiet.logged()) > 100
    assert not canaries.found_in(quiet.logged())
    # said of the group, as it is usual, it does not hold for its members
    with quiet.database.connect() as connection:
        for setting in ("log_min_messages", "log_parameter_max_length"):
            connection.execute(f"alter database {quiet.database.name} reset {setting}".encode())
        for group in GROUPS:
            connection.execute(f"alter role {group} set log_min_messages = log".encode())
            connection.execute(f"alter role {group} set log_parameter_max_length = 0".encode())
    fail_and_pass_a_parameter(person, "person")
    assert canaries.found_in(quiet.logged()) == {canaries.NO_ADDRESS, canaries.DEVICE_ID}


def test_a_person_cannot_have_them_logged(quiet: Talkative) -> None:
    for name, value in (("log_min_messages", "notice"), ("log_parameter_max_length", "-1"), ("log_min_error_statement", "notice")):
        with quiet.database.connect("analyst") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"set {name} = {value}".encode())
        # control: with the right to set it
        with quiet.database.connect(autocommit=False) as connection:
            connection.execute(f"grant set on parameter {name} to analyst".encode())
            connection.execute("set local session authorization analyst")
            connection.execute(f"set {name} = {value}".encode())
            connection.rollback()
