-- What is known of a message's sender, in words: the envelopes around the event, the SNS topic or the source at EventBridge, the names
-- of its message attributes, and those of the event's fields. No value, and no name with digits or a sign that an address or an id has; a
-- name of letters may be a person's. It never raises.
create or replace function staging.sender(body text, attributes jsonb)
returns text language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    envelopes constant text[] := case when staging.body_is_wrapped(body) then (staging.open_body(body)).envelopes end;
    -- letters, and numbers of up to two digits
    name constant text := '^([A-Za-z_./-]+([0-9]{1,2}(?![0-9]))?)+$';
    topic constant text := substring(body from '"TopicArn"\s*:\s*"(?:[^"]*:)?([^":]*)"');
    source constant text := case
        when strpos(body, '"detail-type"') > 0 then substring(body from '"source"\s*:\s*"([^"]*)"')
    end;
begin
    return concat_ws(
        '; ',
        'in ' || nullif(array_to_string(envelopes, ', '), ''),
        'SNS topic ' || case when topic ~ name then topic when topic is not null then 'not shown' end,
        'EventBridge source ' || case when source ~ name then source when source is not null then 'not shown' end,
        'message attributes ' || staging.names_in(attributes -> 'MessageAttributes'),
        coalesce('fields ' || staging.names_in(staging.event(body)), 'no field')
    );
end
$$;
