-- The messages whose logins carry one of the tokens in any column named masked_…. Runs as marts_keeper: see database/1_roles.sql.
create or replace function recovery.messages_of(tokens text[])
returns table (token text, message_id text, sent_at timestamptz)
language plpgsql
stable
security definer
rows 100
set search_path = pg_catalog, pg_temp
as $$
declare
    statement text;
begin
    perform recovery.require_keeper('messages_of');

    select format(
        'select wanted.token, logins.message_id, logins.sent_at from marts.user_logins as logins'
        ' inner join (select distinct token from unnest($1) as token) as wanted on wanted.token in (%s) where %s',
        string_agg(format('logins.%I', attname), ', '),
        string_agg(format('logins.%I = any($1)', attname), ' or ')
    ) into statement
    from pg_attribute
    where attrelid = to_regclass('marts.user_logins') and attname ~ '^masked_' and attnum > 0 and not attisdropped
    having count(*) > 0;

    if statement is not null then
        return query execute statement using tokens;
        -- what dbt's role hangs on the table may have left a search_path to our caller, which is mightier
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    end if;
end
$$;

alter function recovery.messages_of(text[]) owner to marts_keeper;

comment on function recovery.messages_of(text[]) is 'The messages whose logins carry one of the tokens.';
