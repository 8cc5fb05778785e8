-- The names in a JSON object, to be shown: those of letters and _ alone, because a producer may put a value into a name. Others are
-- counted. Null where there is none. No query, whose parameters auto_explain would log.
create or replace function staging.names_in(event jsonb)
returns text language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    -- in jsonb's order: the same for the same names
    names constant jsonb := jsonb_path_query_array(case when jsonb_typeof(event) = 'object' then event end, '$.keyvalue().key');
    shown text[];
    hidden integer := 0;
begin
    for place in 0 .. coalesce(jsonb_array_length(names), 0) - 1 loop
        if names ->> place ~ '^[A-Za-z_]{1,32}$' then
            shown := shown || (names ->> place);
        else
            hidden := hidden + 1;
        end if;
    end loop;
    return nullif(concat_ws(' and ', array_to_string(shown, ', '), nullif(hidden, 0) || ' not shown'), '');
end
$$;
