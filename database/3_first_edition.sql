-- Upgrade, part 1 of 2: sets the schemas of a first-edition database aside, so that the files that follow create theirs.
-- 8_first_edition.sql moves the rows over and drops the old schemas, in the same transaction. Elsewhere it does nothing.

do $$
begin
    if to_regclass('staging.watermarks') is null then
        return;
    end if;

    -- the loader and dbt of the first edition must have ended: their tables are about to move
    lock table staging.raw_logins, staging.watermarks in access exclusive mode;
    alter schema staging rename to first_staging;
    alter schema masking rename to first_masking;
    alter schema recovery rename to first_recovery;
    alter schema marts rename to first_marts;
    create schema staging authorization pipeline_owner;
    create schema masking authorization pipeline_owner;
    create schema recovery authorization pipeline_owner;
    create schema marts authorization pipeline_owner;
end
$$;
