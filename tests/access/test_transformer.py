"""What the role `transformer` (dbt) may, and what it is refused.

It reads staging and calls the maskers, so it could build a dictionary: that is its work, and why it is nobody else's role.
"""

from tests import canaries
from tests.access.refusals import TRIGGER, Attack, assert_refused, attacks_as
from tests.support import Database

WRITE = "revoke transformer from marts_keeper; grant pipeline_owner to transformer"
# GRANT itself only warns where it could grant nothing
GRANT_ON = """
    do $$ begin
        grant select on staging.raw_logins to analyst;
        if not has_table_privilege('analyst', 'staging.raw_logins', 'select') then
            raise insufficient_privilege using message = 'permission denied: nothing was granted';
        end if;
    end $$
"""


def test_transformer_reads_staging(masked_for_all: Database) -> None:
    assert masked_for_all.value(f"select count(*) from staging.raw_logins where body like '%{canaries.IPV4}%'", "transformer") > 0


def test_transformer_calls_the_masker(masked_for_all: Database) -> None:
    token = masked_for_all.value(f"select masking.token('ip', '{canaries.IPV4}')", "transformer")
    assert masked_for_all.value(f"select count(*) from analytics.user_logins where masked_ip = '{token}'", "analyst") > 0


@attacks_as(
    "transformer",
    Attack(
        "reading the keys through a view of its own",
        "create view marts.mine as select * from masking.keys; select * from marts.mine",
        WRITE,
    ),
    Attack("taking the keys over", "alter table masking.keys owner to transformer", WRITE),
    Attack("a foreign key on the keys", "create table marts.mine (d text, v int, foreign key (d, v) references masking.keys)", WRITE),
    Attack("a trigger on the keys", TRIGGER.format("masking.keys"), WRITE),
    Attack("a policy on the keys", "create policy mine on masking.keys to transformer using (true)", WRITE),
    Attack("inheriting the keys", "create table marts.mine () inherits (masking.keys)", WRITE),
    Attack("computing with a key of its own", "select masking.hmac_block('x', 54)", WRITE),
    Attack("changing a body", "update staging.raw_logins set body = 'x'", WRITE),
    Attack("deleting a message", "delete from staging.raw_logins", WRITE),
    Attack("landing a message", "insert into staging.raw_logins (message_id, sent_at, body) select 'mine', now(), 'x'", WRITE),
    Attack("a trigger on staging", TRIGGER.format("staging.raw_logins"), WRITE),
    Attack("statistics of bodies", "alter table staging.raw_logins alter column body set statistics 100", WRITE),
    Attack("dropping a partition", "drop table {partition}", WRITE),
    Attack("reading a partition", "select body from {partition}", WRITE),
    Attack("making partitions", "select staging.ensure_partitions(array[date '2024-02-29'])", WRITE),
    Attack("granting staging on", GRANT_ON, WRITE),
)
def test_transformer_is_refused(masked_for_all: Database, attack: Attack) -> None:
    assert_refused(masked_for_all, "transformer", attack)
