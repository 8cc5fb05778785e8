"""What the role `transformer` (dbt) may, and what it is refused.

It reads staging and what the views mask of it, so it can tell whose token is whose: that is its work, and why it is nobody else's
role. It has no key, cannot have a value of its own choosing masked, and owns nothing that recovery or the loader work on.
"""

from tests import canaries
from tests.access.refusals import TRIGGER, Attack, assert_refused, attacks_as
from tests.support import Database

OWNER = "grant pipeline_owner to transformer"
# GRANT itself only warns where it could grant nothing
GRANT_ON = """
    do $$ begin
        grant select on staging.raw_logins to analyst;
        if not has_table_privilege('analyst', 'staging.raw_logins', 'select') then
            raise insufficient_privilege using message = 'permission denied: nothing was granted';
        end if;
    end $$
"""
# what a role could hang on a table to be run, or looked at, by whoever works on it
HANGERS_ON = {
    "a trigger": TRIGGER,
    "a rule": "create rule mine as on insert to {} do also select 1",
    "a policy": "create policy mine on {} using (true)",
    "row security": "alter table {} enable row level security",
    "a column": "alter table {} add column mine text",
    "a default": "alter table {} alter column message_id set default 'mine'",
    "a check": "alter table {} add constraint mine check (message_id is not null)",
    "an index": "create index mine on {} (message_id)",
    "statistics": "create statistics analytics.mine on message_id, sent_at from {}",
    "a partition": "create table analytics.mine partition of {} default",
    "a foreign key": "create table analytics.mine (m text, s timestamptz, foreign key (m, s) references {})",
    "a new owner": "alter table {} owner to transformer",
    "a new name": "alter table {} rename to mine",
    "a comment": "comment on table {} is 'mine'",
    "nothing, dropping it": "drop table {} cascade",
    "nothing, emptying it": "truncate {}",
}


def hung_on(table: str) -> list[Attack]:
    """Everything in HANGERS_ON, on *table*."""
    schema = "; grant create on schema analytics to pipeline_owner"
    return [Attack(f"{what} on {table}", statement.format(table), OWNER + schema) for what, statement in HANGERS_ON.items()]


def test_transformer_reads_staging(masked_for_all: Database) -> None:
    assert masked_for_all.value(f"select count(*) from staging.raw_logins where body like '%{canaries.IPV4}%'", "transformer") > 0


def test_transformer_has_landed_values_masked_and_no_others(masked_for_all: Database) -> None:
    """No function that it may call, whatever its arguments, gives the token of a value that it chooses."""
    token = masked_for_all.value(
        "select masked_ip from staging.logins inner join staging.raw_logins using (message_id) "
        f"where strpos(body, '\"{canaries.IPV4}\"') > 0",
        "transformer",
    )
    assert masked_for_all.value(f"select count(*) from analytics.user_logins where masked_ip = '{token}'", "analyst") > 0
    # what it may call holds no key: it runs as its caller, or takes no value at all
    callable_as_owner = masked_for_all.rows(
        "select oid::regprocedure::text from pg_proc where prosecdef and has_function_privilege(oid, 'execute') "
        "and pronamespace::regnamespace::text in ('staging', 'masking', 'marts', 'recovery')",
        "transformer",
    )
    assert callable_as_owner == [("staging.begin_judging(bigint)",)]


@attacks_as(
    "transformer",
    *[attack for table in ("marts.user_logins", "marts.rejected_logins") for attack in hung_on(table)],
    Attack(
        "reading the keys through a view of its own",
        "create view analytics.mine as select * from masking.keys; select * from analytics.mine",
        OWNER + "; grant create, usage on schema analytics to pipeline_owner",
    ),
    Attack("taking the keys over", "alter table masking.keys owner to transformer", OWNER),
    Attack("a foreign key on the keys", "create table analytics.mine (d text references masking.keys)", OWNER),
    Attack("a trigger on the keys", TRIGGER.format("masking.keys"), OWNER),
    Attack("a policy on the keys", "create policy mine on masking.keys to transformer using (true)", OWNER),
    Attack("inheriting the keys", "create table analytics.mine () inherits (masking.keys)", OWNER),
    Attack("computing with a key of its own", "select masking.hmac_block('x', 54)", OWNER),
    Attack("changing a body", "update staging.raw_logins set body = 'x'", OWNER),
    Attack("deleting a message", "delete from staging.raw_logins", OWNER),
    Attack("landing a message", "insert into staging.raw_logins (message_id, sent_at, body) select 'mine', now(), 'x'", OWNER),
    Attack("a trigger on staging", TRIGGER.format("staging.raw_logins"), OWNER),
    Attack("statistics of bodies", "alter table staging.raw_logins alter column body set statistics 100", OWNER),
    Attack("dropping a partition", "drop table {partition}", OWNER),
    Attack("reading a partition", "select body from {partition}", OWNER),
    Attack("making partitions", "select staging.ensure_partitions(array[date '2024-02-29'])", OWNER),
    Attack("a table in marts", "create table marts.mine ()", OWNER),
    Attack("changing a login", "update marts.user_logins set masked_ip = 'v1:'", OWNER),
    Attack("deleting a login", "delete from marts.user_logins", OWNER),
    Attack("writing past the partitioned table", "insert into {mart} select * from marts.user_logins limit 0", OWNER),
    Attack(
        "putting a view in the place of the one that masks",
        "create or replace view staging.logins as select * from staging.unjudged_logins",
        OWNER,
    ),
    Attack("writing through a view", "create rule mine as on insert to staging.logins do instead nothing", OWNER),
    Attack("purging by its own list", "select recovery.delete_messages(array['m'], array[now()])", OWNER),
    Attack("granting staging on", GRANT_ON, OWNER),
)
def test_transformer_is_refused(masked_for_all: Database, attack: Attack) -> None:
    assert_refused(masked_for_all, "transformer", attack)
