-- Roles belong to the whole server, so each is made only where it is missing.
-- Login roles get their password from `python -m loader migrate`, never from a file.

do $$
begin
    if to_regrole('pipeline_owner') is null then
        create role pipeline_owner nologin;
    end if;
    if to_regrole('loader') is null then
        create role loader login;
    end if;
    if to_regrole('transformer') is null then
        create role transformer login;
    end if;
    if to_regrole('analyst') is null then
        create role analyst login;
    end if;
    if to_regrole('pii_requester') is null then
        create role pii_requester login;
    end if;
    if to_regrole('pii_approver') is null then
        create role pii_approver login;
    end if;
    if to_regrole('privacy_officer') is null then
        create role privacy_officer login;
    end if;
    if to_regrole('marts_keeper') is null then
        create role marts_keeper nologin;
    end if;
end
$$;

-- An administrator who is no superuser (a managed server has none) must be a member to create objects for them.
do $$
begin
    execute 'grant pipeline_owner, transformer to current_user with inherit true, set true';
end
$$;

-- What a role is given by hand besides its own rights would open what 6_privileges.sql closes.
do $$
declare
    pipeline_roles constant name[] := array[
        'pipeline_owner', 'loader', 'transformer', 'analyst', 'pii_requester', 'pii_approver',
        'privacy_officer', 'marts_keeper'
    ];
    too_mighty constant text := (
        select string_agg(rolname, ', ' order by rolname) from pg_roles
        where
            rolname = any(pipeline_roles)
            and (
                rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls
                or (rolcanlogin and rolname in ('pipeline_owner', 'marts_keeper'))
            )
    );
    given record;
begin
    if too_mighty is not null then
        raise exception '% must not be superuser, createrole, createdb, replication or bypassrls, nor pipeline_owner or marts_keeper log in; take it back with ALTER ROLE', too_mighty
            using errcode = 'invalid_grant_operation';
    end if;

    for given in
        select
            held.rolname as held,
            member.rolname as member,
            grantor.rolname as grantor
        from pg_auth_members
        inner join pg_roles as held on pg_auth_members.roleid = held.oid
        inner join pg_roles as member on pg_auth_members.member = member.oid
        inner join pg_roles as grantor on pg_auth_members.grantor = grantor.oid
        -- on RDS a member of rds_iam logs in with a token instead of a password
        where member.rolname = any(pipeline_roles) and held.rolname <> 'rds_iam'
    loop
        -- without the grantor it takes back what the administrator gave, and only warns of the rest
        execute format('revoke %I from %I granted by %I cascade', given.held, given.member, given.grantor);
    end loop;
end
$$;

-- Recovery changes tables that belong to dbt. Whoever owns a table can hang a trigger on it, and a trigger runs as the role that
-- changes the table: so that is done by a role that can do no more than dbt itself, never by the one that reads the keys.
do $$
begin
    execute 'grant transformer to marts_keeper with inherit true, set false';
    execute 'grant marts_keeper to pipeline_owner with inherit true, set true';
end
$$;
