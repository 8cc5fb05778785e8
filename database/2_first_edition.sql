-- Upgrade, part 1 of 2: sets the schemas of a first-edition database aside, so that the files that follow create theirs.
-- 8_first_edition.sql moves the rows over and drops the old schemas, in the same transaction. Elsewhere it does nothing.

do $$
declare
    clients constant text := (
        select string_agg(distinct usename, ', ') from pg_stat_activity
        where datname = current_database() and usename in ('loader', 'transformer')
    );
    relation record;
begin
    if to_regclass('staging.watermarks') is null then
        return;
    end if;
    -- the first edition's loader would go on, and its messages would not be on the work list
    if clients is not null then
        raise exception '% is connected; stop the loader and dbt of the first edition, then migrate again', clients
            using errcode = 'object_in_use';
    end if;

    -- all locks before any work: what cannot be had is tried again from the start
    for relation in
        select oid::regclass as name, relkind in ('r', 'p') as is_table from pg_class
        where relnamespace::regnamespace::text in ('staging', 'masking', 'recovery', 'marts') and relkind in ('r', 'p', 'v', 'm', 'f')
        order by relkind, oid
    loop
        if relation.name::text !~ '^(staging.(raw_logins(_[0-9]{8})?|watermarks)|masking.keys|recovery.(audit|reveals|tombstones|erased_messages|retention|rotation|next_keys|rotated_tokens|scrubs)|marts.(user_logins|rejected_logins|daily_reconciliation))$' then
            raise exception '% is not of the first edition, whose schemas are dropped; move it to another schema, then migrate again', relation.name
                using errcode = 'object_not_in_prerequisite_state';
        elsif relation.is_table then
            execute format('lock table %s in access exclusive mode', relation.name);
        end if;
    end loop;
    alter schema staging rename to first_staging;
    alter schema masking rename to first_masking;
    alter schema recovery rename to first_recovery;
    alter schema marts rename to first_marts;
end
$$;
