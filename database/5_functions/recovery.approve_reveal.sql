-- Step 2 of a reveal: somebody else allows it.
create or replace function recovery.approve_reveal(reveal_id uuid)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    approved recovery.reveals;
begin
    update recovery.reveals set approver = session_user, approved_at = clock_timestamp()
    where reveals.reveal_id = approve_reveal.reveal_id
        and reveals.requester != session_user
        and reveals.approver is null
        and reveals.expires_at > clock_timestamp()
        and current_setting('transaction_isolation') = 'read committed'
    returning * into approved;

    if approved.reveal_id is null then
        raise exception 'reveal refused' using errcode = 'insufficient_privilege';
    end if;

    perform recovery.record('reveal_approved', jsonb_build_object(
        'reveal_id', approved.reveal_id, 'requester', approved.requester
    ));
end
$$;
