"""What recovery does to dbt's tables it does as marts_keeper, and what dbt's role hangs on them can change nothing about that."""

import pytest
from psycopg import errors

from loader.migrate import migrate
from tests.recovery.conftest import Masked
from tests.support import DATABASE_FILES

# What an owner may do to a function without being allowed to create anything beside it; the second one brings a <> of its own.
ALTERATIONS = ("security invoker", "security invoker set search_path = marts, pg_catalog")


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_a_trigger_that_alters_the_function_it_runs_in_gains_nothing(masked: Masked, alteration: str) -> None:
    with masked.connect("transformer") as transformer:
        transformer.execute("create table marts.loot (found text)")
        transformer.execute("grant insert on marts.loot to public")
        transformer.execute("create function marts.never(name, name) returns boolean language sql return false")
        transformer.execute("grant execute on function marts.never(name, name) to public")
        transformer.execute("create operator marts.<> (leftarg = name, rightarg = name, function = marts.never)")
        transformer.execute(
            "create function marts.steal() returns trigger language plpgsql as $$ begin "
            "insert into marts.loot values (current_user || has_table_privilege('masking.keys', 'select')); "
            "if current_user = 'marts_keeper' then "
            f"alter function recovery.delete_from_marts(text, text[]) {alteration}; "
            "begin alter function recovery.delete_from_marts(text, text[]) rename to mine; "
            "insert into marts.loot values ('renamed'); exception when insufficient_privilege then null; end; "
            "begin create or replace function recovery.delete_from_marts(user_id text, message_ids text[]) "
            "returns table (logins bigint, rejections bigint) language sql as 'select 0, 0'; "
            "insert into marts.loot values ('replaced'); exception when insufficient_privilege then null; end; "
            "end if; return null; end $$"
        )
        transformer.execute("create trigger steal after delete on marts.user_logins for each statement execute function marts.steal()")

    with masked.connect("privacy_officer") as officer:
        officer.execute("select recovery.erase('u-old')")
        # control: the trigger did run, and did alter the function
        assert masked.rows("select found from marts.loot") == [("marts_keeperfalse",)]
        assert masked.value("select not prosecdef from pg_proc where proname = 'delete_from_marts'")
        with pytest.raises(errors.InsufficientPrivilege, match="runs as pipeline_owner"):
            officer.execute("select recovery.erase('u-erased')")

    assert masked.rows("select found from marts.loot") == [("marts_keeperfalse",)]
    assert masked.value("select count(*) from marts.user_logins where user_id = 'u-erased'") == 2
    # the way back
    with masked.connect("transformer") as transformer, masked.connect() as admin, masked.connect("privacy_officer") as officer:
        transformer.execute("drop trigger steal on marts.user_logins")
        migrate(admin, DATABASE_FILES, {})
        assert officer.execute("select logins from recovery.erase('u-erased')").fetchone() == (2,)


def leave_a_search_path(masked: Masked) -> None:
    """Let whatever touches the logins run a function that leaves a search_path, in which operators tell as whom they run."""
    with masked.connect("transformer") as transformer:
        transformer.execute("grant usage on schema marts to public; create table marts.loot (found text)")
        transformer.execute("grant insert on marts.loot to public")
        transformer.execute(
            "create function marts.path() returns boolean language plpgsql as $$ begin "
            "insert into marts.loot values ('path'); perform set_config('search_path', 'marts, pg_catalog', false); return true; end $$"
        )
        for operator, left, right in ((">", "bigint", "integer"), ("<>", "bigint", "bigint"), ("=", "uuid", "uuid")):
            transformer.execute(
                f"create function marts.tell(one {left}, other {right}) returns boolean language plpgsql as $$ begin "
                "insert into marts.loot values (current_user); "
                f"return one operator(pg_catalog.{operator}) other; end $$".encode()
            )
            transformer.execute(f"create operator marts.{operator} (leftarg = {left}, rightarg = {right}, function = marts.tell)".encode())


def hang_it_on_the_table(masked: Masked) -> None:
    with masked.connect("transformer") as transformer:
        transformer.execute(
            "create function marts.trap() returns trigger language plpgsql as $$ begin perform marts.path(); return null; end $$"
        )
        transformer.execute(
            "create trigger trap after delete or update on marts.user_logins for each statement execute function marts.trap()"
        )


def test_a_search_path_that_a_trigger_leaves_reaches_no_mightier_function(masked: Masked) -> None:
    leave_a_search_path(masked)
    hang_it_on_the_table(masked)

    masked.recovery("erase", stdin="u-old\n")
    masked.recovery("rotate")

    # control: it did run, in both
    assert masked.value("select count(*) from marts.loot where found = 'path'") >= 2
    assert masked.rows("select distinct found from marts.loot where found in ('pipeline_owner', 'privacy_officer')") == []


def test_a_search_path_that_a_view_leaves_reaches_no_mightier_function(masked: Masked) -> None:
    token = masked.value("select masked_ip from marts.user_logins order by message_id limit 1")
    leave_a_search_path(masked)
    with masked.connect("transformer") as transformer:
        transformer.execute("alter table marts.user_logins rename to real_logins")
        transformer.execute("create view marts.user_logins as select * from marts.real_logins where marts.path()")

    with masked.connect("pii_requester") as requester, masked.connect("pii_approver") as approver:
        (reveal,) = requester.execute("select recovery.request_reveal(array[%s], 'fraud', 'case')", [token]).fetchone() or (None,)
        approver.execute("select recovery.approve_reveal(%s)", [reveal])
        requester.execute("select recovery.open_reveal(%s)", [reveal])
        assert requester.execute("select * from recovery.read_reveal(%s)", [reveal]).fetchall()

    assert masked.value("select count(*) from marts.loot where found = 'path'") >= 1
    assert masked.rows("select distinct found from marts.loot where found in ('pipeline_owner', 'pii_requester')") == []


def test_no_function_of_the_keeper_runs_as_anybody_else(masked: Masked) -> None:
    functions = masked.rows(
        "select proname, oid::regprocedure::text, array(select format('null::%s', type::regtype) from unnest(proargtypes) as type) "
        "from pg_proc where proowner = 'marts_keeper'::regrole order by 1"
    )
    assert [name for name, _, _ in functions] == ["change_tokens", "delete_from_marts", "messages_of", "rewrite_mart"]
    for _, function, arguments in functions:
        with masked.connect(autocommit=False) as admin:
            admin.execute(f"alter function {function} security invoker".encode())
            admin.execute("set local role pipeline_owner")
            with pytest.raises(errors.InsufficientPrivilege, match="runs as pipeline_owner, not as marts_keeper"):
                admin.execute(f"select * from {function.partition('(')[0]}({', '.join(arguments)})".encode())
            admin.rollback()
