-- No transaction that is still open keeps messages from being taken for longer than var('held_back_minutes').
-- Shows the oldest open transaction: its process, or the name of a transaction that was prepared and forgotten.
{{ config(severity='warn', tags=['after_each_run']) }}

with

raw_logins as (

    select * from {{ source('staging', 'raw_logins') }}

),

held_back as (

    select
        pg_snapshot_xmin(pg_current_snapshot()) as oldest_open_xid,
        count(*) as messages,
        min(landed_at) as landed_since

    from raw_logins

    where
        landed_xid >= pg_snapshot_xmin(pg_current_snapshot())
        and landed_at < now() - interval '{{ var("held_back_minutes") }} minutes'

    having count(*) > 0

)

select
    held_back.*,
    holder.pid,
    forgotten.gid as prepared_transaction

from held_back

left outer join pg_locks as holder
    on
        holder.locktype = 'transactionid'
        and holder.granted
        and holder.transactionid = held_back.oldest_open_xid::xid

left outer join pg_prepared_xacts as forgotten on forgotten.transaction = held_back.oldest_open_xid::xid
