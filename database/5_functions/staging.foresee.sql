-- What today's rules say of the newest messages in each place, *most* of each: how many were judged, how many would be masked. For
-- `python -m loader migrate --dry-run`, which asks before it takes back what it changed.
create or replace function staging.foresee(most bigint)
returns table (place text, judged bigint, passing bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with
    places as (
        (select 'waiting' as place, unjudged.message_id, unjudged.sent_at from staging.unjudged order by unjudged.sent_at desc limit most)
        union all
        (select 'rejected', rejected_logins.message_id, rejected_logins.sent_at from marts.rejected_logins order by sent_at desc limit most)
        union all
        (select 'masked', user_logins.message_id, user_logins.sent_at from marts.user_logins order by sent_at desc limit most)
    )

    select
        places.place,
        count(*),
        count(*) filter (where logins.reasons is null)
    from places
    inner join staging.logins using (message_id, sent_at)
    group by places.place
    order by places.place desc;
end
$$;
