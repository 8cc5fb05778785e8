-- The paths of an event's values as masking.fields spells them, one a row: user.id, device.ids[0]. An object or array with nothing in
-- it is a value. A name that no policy could name is in quotes, so that it is not taken for a path: "user.id".
create or replace function staging.leaf_paths(event jsonb)
returns setof text language sql immutable parallel safe
begin atomic
    with recursive

    reached as (

        select
            '' as path,
            event as node

        union all

        select
            reached.path || child.step as path,
            child.node

        from reached

        cross join lateral (
            select
                member.node,
                '.' || case when member.name ~ '^[A-Za-z_][A-Za-z0-9_-]*$' then member.name else to_json(member.name)::text end as step
            from jsonb_each(case when jsonb_typeof(reached.node) = 'object' then reached.node end) as member (name, node)
            union all
            select
                element.node,
                concat('[', element.place - 1, ']') as step
            from
                jsonb_array_elements(case when jsonb_typeof(reached.node) = 'array' then reached.node end)
                with ordinality as element (node, place)
        ) as child

    )

    select ltrim(path, '.') as leaf_path
    from reached
    where jsonb_typeof(node) not in ('object', 'array') or node in ('{}'::jsonb, '[]'::jsonb);
end;
