-- Begins a key rotation, or goes on with the one that was begun: false then. The next keys are made inside the server and lie aside
-- until recovery.swap_tokens(), so that until then everything is masked with the keys in use.
-- The tombstones' key never rotates: nothing is left of which they could be made anew.
create or replace function recovery.begin_rotation()
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    this_domain text;
    next_version integer;
begin
    insert into recovery.rotation default values on conflict do nothing;
    if not found then
        -- beyond what dbt has taken: the mark is from before a restore, and says nothing here
        update recovery.rotation set mapped_before = '0'
        where rotation.mapped_before > (
            select watermarks.taken_before from staging.watermarks where watermarks.consumer = 'user_logins'
        );
        return false;
    end if;

    for this_domain in select distinct keys.domain from masking.keys where keys.domain != 'erased_user' loop
        next_version := masking.create_key(this_domain);
        with

        moved as (

            delete from masking.keys
            where keys.domain = this_domain and keys.version = next_version
            returning keys.*

        )

        insert into recovery.next_keys
        select * from moved;
    end loop;

    perform recovery.record('rotation_begun', (
        select jsonb_object_agg(next_keys.domain, next_keys.version) from recovery.next_keys
    ));
    return true;
end
$$;

comment on function recovery.begin_rotation() is 'Begins a key rotation (true), or goes on with the one that was begun (false).';
