"""What the role `pii_approver` is refused: it has its step of a reveal, through functions, and no table."""

from tests.access.refusals import ON_DATABASE, Attack, assert_refused, attacks_as
from tests.support import Database

OWNER = "grant pipeline_owner to pii_approver"
DBT = "grant transformer to pii_approver"


@attacks_as(
    "pii_approver",
    Attack("reading staging", "select body from staging.raw_logins", OWNER),
    Attack("reading a partition of staging", "select body from {partition}", OWNER),
    Attack("reading marts", "select message_id from marts.user_logins", DBT),
    Attack("reading what is masked", "select masked_ip from staging.logins", DBT),
    Attack("creating a temp table", "create temp table mine ()", ON_DATABASE.format("temporary", "pii_approver")),
)
def test_pii_approver_is_refused(masked_for_all: Database, attack: Attack) -> None:
    assert_refused(masked_for_all, "pii_approver", attack)
