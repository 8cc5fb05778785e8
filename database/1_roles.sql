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
end
$$;

-- An administrator who is no superuser (a managed server has none) must be a member to create objects for them.
do $$
begin
    execute 'grant pipeline_owner, transformer to current_user with inherit true, set true';
end
$$;
