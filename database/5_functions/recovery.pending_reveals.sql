-- What an approver decides on, and what a requester waits for.
create or replace function recovery.pending_reveals()
returns table (reveal_id uuid, requester text, purpose text, legal_reference text, tokens text[], approver text, expires_at timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select
        reveals.reveal_id,
        reveals.requester,
        reveals.purpose,
        reveals.legal_reference,
        reveals.tokens,
        reveals.approver,
        reveals.expires_at
    from recovery.reveals
    where reveals.expires_at > clock_timestamp() and reveals.opened_xid is null
    order by reveals.requested_at;
end;
