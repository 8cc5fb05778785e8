-- Step 1 of a reveal. Whatever is wrong with a request, here and in the steps after, the answer is the same, and comes from
-- one line: an error's context names the line.
create or replace function recovery.request_reveal(tokens text[], purpose text, legal_reference text)
returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    requested recovery.reveals;
begin
    if current_setting('transaction_isolation') = 'read committed' then
        begin
            insert into recovery.reveals (tokens, purpose, legal_reference, requester)
            values (request_reveal.tokens, request_reveal.purpose, request_reveal.legal_reference, session_user)
            returning * into requested;
        exception when check_violation or not_null_violation then
            requested := null;
        end;
    end if;

    if requested.reveal_id is null then
        raise exception 'reveal refused' using errcode = 'insufficient_privilege';
    end if;

    perform recovery.record('reveal_requested', jsonb_build_object(
        'reveal_id', requested.reveal_id, 'tokens', requested.tokens,
        'purpose', requested.purpose, 'legal_reference', requested.legal_reference
    ));
    return requested.reveal_id;
end
$$;
