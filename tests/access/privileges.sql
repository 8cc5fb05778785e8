-- Who holds what, one line each, from the catalog: roles, their memberships and settings, what each may do to each object beyond
-- its owner, how functions run, and which tables are under row security. Partitions appear once, without their date.
with

ours as (

    select
        oid,
        nspname
    from pg_namespace
    where nspname in ('staging', 'masking', 'recovery', 'marts', 'analytics', 'reports', 'migrations', 'public')

),

relations as (

    select
        pg_class.*,
        ours.nspname || '.' || case
            when pg_class.relispartition then regexp_replace(pg_class.relname, '[0-9]{6,8}$', '<date>')
            else pg_class.relname
        end as full_name
    from pg_class
    inner join ours on pg_class.relnamespace = ours.oid
    where pg_class.relkind in ('r', 'p', 'v', 'm', 'f', 'S')

),

functions as (

    select
        pg_proc.*,
        pg_proc.oid::regprocedure::text as full_name
    from pg_proc
    inner join ours on pg_proc.pronamespace = ours.oid

),

-- null means: the owner everything, and PUBLIC what PostgreSQL gives it by default
held as (

    select
        'database' as kind,
        'this one' as thing,
        pg_database.datdba as owner_oid,
        coalesce(pg_database.datacl, acldefault('d', pg_database.datdba)) as acl
    from pg_database
    where pg_database.datname = current_database()

    union all

    select
        'schema' as kind,
        pg_namespace.nspname as thing,
        pg_namespace.nspowner as owner_oid,
        coalesce(pg_namespace.nspacl, acldefault('n', pg_namespace.nspowner)) as acl
    from pg_namespace
    inner join ours on pg_namespace.oid = ours.oid

    union all

    select
        'relation' as kind,
        relations.full_name as thing,
        relations.relowner as owner_oid,
        coalesce(relations.relacl, acldefault('r', relations.relowner)) as acl
    from relations

    union all

    select
        'column' as kind,
        relations.full_name || '.' || pg_attribute.attname as thing,
        relations.relowner as owner_oid,
        pg_attribute.attacl as acl
    from pg_attribute
    inner join relations on pg_attribute.attrelid = relations.oid
    where pg_attribute.attacl is not null

    union all

    select
        'function' as kind,
        functions.full_name as thing,
        functions.proowner as owner_oid,
        coalesce(functions.proacl, acldefault('f', functions.proowner)) as acl
    from functions

    union all

    -- functions of PostgreSQL itself that everybody could call and no longer can
    select
        'function' as kind,
        'pg_catalog.' || pg_proc.proname as thing,
        pg_proc.proowner as owner_oid,
        pg_proc.proacl as acl
    from pg_proc
    left outer join pg_init_privs
        on
            pg_proc.oid = pg_init_privs.objoid
            and pg_init_privs.classoid = 'pg_proc'::regclass
    where
        pg_proc.pronamespace = 'pg_catalog'::regnamespace
        and pg_proc.proacl is distinct from pg_init_privs.initprivs

),

lines as (

    select
        format(
            'role      %s: %s%s', pg_roles.rolname,
            case when pg_roles.rolcanlogin then 'login' else 'no login' end,
            case
                when pg_roles.rolsuper or pg_roles.rolcreaterole or pg_roles.rolcreatedb or pg_roles.rolreplication or pg_roles.rolbypassrls
                    then ', WITH ATTRIBUTES OF AN ADMINISTRATOR'
            end
        ) as entry
    from pg_roles
    where pg_roles.rolname !~ '^pg_' and pg_roles.rolname <> 'postgres'

    union all

    select format('member    %s is a member of %s', pg_auth_members.member::regrole, pg_auth_members.roleid::regrole)
    from pg_auth_members
    where pg_auth_members.member::regrole::text !~ '^pg_'

    union all

    select format('setting   %s: %s', coalesce(nullif(pg_db_role_setting.setrole, 0)::regrole::text, 'everybody'), setting.assignment)
    from pg_db_role_setting
    cross join lateral unnest(pg_db_role_setting.setconfig) as setting (assignment)
    where
        pg_db_role_setting.setdatabase in (0, (
            select pg_database.oid from pg_database
            where pg_database.datname = current_database()
        ))

    union all

    select
        format(
            '%s %s: %s may %s', rpad(held.kind, 9), held.thing,
            case given.grantee when 0 then 'EVERYBODY' else given.grantee::regrole::text end,
            string_agg(distinct lower(given.privilege_type) || case when given.is_grantable then ' and grant it' else '' end, ', ')
        )
    from held
    cross join lateral aclexplode(held.acl) as given
    where given.grantee <> held.owner_oid
    group by held.kind, held.thing, given.grantee

    union all

    select distinct format('owner     %s %s: %s', held.kind, held.thing, held.owner_oid::regrole)
    from held
    where held.kind not in ('column') and held.thing !~ '^pg_catalog'

    union all

    select
        format(
            'runs      %s: as its %s, %s, %s%s', functions.full_name,
            case when functions.prosecdef then 'OWNER' else 'caller' end,
            case functions.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
            (
                select pg_language.lanname from pg_language
                where pg_language.oid = functions.prolang
            ),
            coalesce(', set ' || array_to_string(functions.proconfig, ', set '), '')
        )
    from functions

    union all

    select distinct
        format(
            'security  %s: row security %s%s', relations.full_name,
            case when relations.relrowsecurity then 'on' else 'off' end,
            coalesce(', ' || array_to_string(relations.reloptions, ', '), '')
        )
    from relations
    where relations.relrowsecurity or relations.relkind = 'v'

    union all

    select
        format(
            'policy    %s.%s: %s for %s to %s, using %s, with check %s', pg_policies.schemaname, pg_policies.tablename,
            pg_policies.policyname, lower(pg_policies.cmd), array_to_string(pg_policies.roles, ', '),
            coalesce(pg_policies.qual, '-'), coalesce(pg_policies.with_check, '-')
        )
    from pg_policies

    union all

    select distinct format('unseen    %s.%s: no statistics', relations.full_name, pg_attribute.attname)
    from pg_attribute
    inner join relations on pg_attribute.attrelid = relations.oid
    -- what PostgreSQL adds to each table counts as unseen before 17
    where pg_attribute.attstattarget = 0 and pg_attribute.attnum > 0

    union all

    select
        format(
            'default   %s of %s: %s',
            case pg_default_acl.defaclobjtype when 'f' then 'functions' else pg_default_acl.defaclobjtype::text end,
            pg_default_acl.defaclrole::regrole, array_to_string(pg_default_acl.defaclacl, ', ')
        )
    from pg_default_acl

)

select entry from lines
order by entry collate "C"
