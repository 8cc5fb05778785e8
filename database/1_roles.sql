-- Roles belong to the whole server, so each is made only where it is missing.
-- Login roles get their password from `python -m loader migrate`, never from a file.

do $$
declare
    login_role text;
begin
    if to_regrole('pipeline_owner') is null then
        create role pipeline_owner nologin;
    end if;
    foreach login_role in array array['loader', 'transformer', 'analyst', 'reporter', 'pii_requester', 'pii_approver', 'privacy_officer'] loop
        if to_regrole(login_role) is null then
            execute format('create role %I login', login_role);
        end if;
    end loop;

    -- An administrator who is no superuser (a managed server has none) must be a member to create objects for them.
    execute 'grant pipeline_owner, transformer to current_user with inherit true, set true';
end
$$;

-- An attribute or a membership given by hand would open what 7_privileges.sql closes.
do $$
declare
    pipeline_roles constant regrole[] := array[
        'pipeline_owner', 'loader', 'transformer', 'analyst', 'reporter', 'pii_requester', 'pii_approver', 'privacy_officer'
    ];
    overprivileged_roles constant text := (
        select string_agg(rolname, ', ' order by rolname) from pg_roles
        where
            oid = any(pipeline_roles)
            and (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls or (rolcanlogin and rolname = 'pipeline_owner'))
    );
    membership record;
begin
    if overprivileged_roles is not null then
        raise exception '% must not be superuser, createrole, createdb, replication or bypassrls, and pipeline_owner must not log in; take it back with ALTER ROLE', overprivileged_roles
            using errcode = 'invalid_grant_operation';
    end if;

    for membership in
        select
            roleid::regrole as granted,
            member::regrole as member,
            grantor::regrole as grantor
        from pg_auth_members
        -- on RDS a member of rds_iam logs in with an IAM credential instead of a password; a first-edition database needs marts_keeper
        where
            member = any(pipeline_roles) and roleid::regrole::text <> 'rds_iam'
            and (roleid::regrole::text <> 'marts_keeper' or member <> 'pipeline_owner'::regrole)
    loop
        begin
            -- without the grantor, REVOKE takes back only what the current user granted
            execute format('revoke %s from %s granted by %s cascade', membership.granted, membership.member, membership.grantor);
        exception when insufficient_privilege or invalid_grant_operation then
            raise exception '% granted % to %, and % may not take it back; ask % to revoke it, then run migrate again',
                membership.grantor, membership.granted, membership.member, current_user, membership.grantor
                using errcode = 'invalid_grant_operation';
        end;
    end loop;
end
$$;
