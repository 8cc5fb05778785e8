-- Step 3 of a reveal: puts on record that the values are about to be read. Reading is another transaction, so that a ROLLBACK
-- after the values were seen cannot take the record back.
create or replace function recovery.open_reveal(reveal_id uuid)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    opened recovery.reveals;
begin
    update recovery.reveals set opened_at = clock_timestamp(), opened_xid = pg_current_xact_id()
    where reveals.reveal_id = open_reveal.reveal_id
        and reveals.requester = session_user
        and reveals.approver is not null
        and reveals.opened_xid is null
        and reveals.expires_at > clock_timestamp()
        and current_setting('transaction_isolation') = 'read committed'
    returning * into opened;

    if opened.reveal_id is null then
        raise exception 'reveal refused' using errcode = 'insufficient_privilege';
    end if;

    -- counts the readings: a sequence alone is not set back by ROLLBACK
    execute format('create sequence recovery.%I', 'readings_of_' || opened.reveal_id);
    perform recovery.record('reveal_opened', jsonb_build_object(
        'reveal_id', opened.reveal_id, 'tokens', opened.tokens, 'requester', opened.requester, 'approver', opened.approver,
        'purpose', opened.purpose, 'legal_reference', opened.legal_reference
    ));
end
$$;
