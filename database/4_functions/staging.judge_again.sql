-- Puts messages up for judgement again: they land anew, in this transaction, so that the next dbt run takes them as it takes any
-- other, once. Returns those that are still there; what has expired or was erased stays as it was judged.
create or replace function staging.judge_again(message_ids text[])
returns setof text
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
begin atomic
    update staging.raw_logins set landed_xid = pg_current_xact_id()
    where message_id = any(message_ids)
    returning message_id;
end;

comment on function staging.judge_again(text[]) is 'Lets messages land anew, for the next dbt run to judge; returns those still there.';
