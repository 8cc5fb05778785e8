"""What the role `privacy_officer` is refused: it erases, expires and rotates through functions, and sees nobody's data."""

from tests.access.refusals import ON_DATABASE, Attack, assert_refused, attacks_as
from tests.support import Database

OWNER = "grant pipeline_owner to privacy_officer"
ADD = "insert into recovery.audit select 1, now(), 'nobody', 'erased', '{}', sha256('mine'), sha256('mine')"
DBT = "grant transformer to privacy_officer"


@attacks_as(
    "privacy_officer",
    Attack("reading staging", "select body from staging.raw_logins", OWNER),
    Attack("reading a partition of staging", "select body from {partition}", OWNER),
    Attack("reading marts", "select message_id from marts.user_logins", DBT),
    Attack("reading a view", "select masked_ip from analytics.user_logins", "grant analyst to privacy_officer"),
    Attack("reading what is masked", "select masked_ip from staging.logins", DBT),
    Attack("creating a temp table", "create temp table mine ()", ON_DATABASE.format("temporary", "privacy_officer")),
    Attack("adding to the record", ADD, OWNER),
    Attack("switching off what guards the record", "alter table recovery.audit disable trigger user", OWNER),
    Attack("shortening the retention by hand", "update recovery.retention set raw_days = 14", OWNER),
    Attack("telling who was erased", "select count(*) from recovery.tombstones", OWNER),
    Attack("listing the reveals", "select count(*) from recovery.reveals", OWNER),
)
def test_privacy_officer_is_refused(masked_for_all: Database, attack: Attack) -> None:
    assert_refused(masked_for_all, "privacy_officer", attack)
