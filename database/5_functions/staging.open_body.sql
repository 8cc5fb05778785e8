-- Opens the envelopes around an event: *envelopes*, the outermost first, 'batch' last where several events are inside; *content*, the
-- JSON inside them as it was sent; and *fault*, the reason where it holds no event that is accepted. What staging.envelopes() does not
-- name is a fault and is opened all the same, so that recovery finds a person in it.
create or replace function staging.open_body(body text, out content text, out envelopes text[], out fault text)
language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    utf8 constant text := '^([\u0001-\u007f]|[\u00c2-\u00df][\u0080-\u00bf]|\u00e0[\u00a0-\u00bf][\u0080-\u00bf]'
        '|[\u00e1-\u00ec\u00ee\u00ef][\u0080-\u00bf]{2}|\u00ed[\u0080-\u009f][\u0080-\u00bf]|\u00f0[\u0090-\u00bf][\u0080-\u00bf]{2}'
        '|[\u00f1-\u00f3][\u0080-\u00bf]{3}|\u00f4[\u0080-\u008f][\u0080-\u00bf]{2})*$';
    layer jsonb;
    kind text;
    field text;
    packed text;
    bytes bytea;
    envelope text;
    inside text;
begin
    content := body;
    envelopes := '{}';
    while content is not null loop
        envelope := null;
        inside := null;
        if staging.can_be_jsonb(content) then
            -- most are a login by now
            exit when not staging.body_is_wrapped(content);
            layer := content;
            kind := jsonb_typeof(layer);
            if kind = 'string' then
                envelope := 'json_text';
                inside := layer #>> '{}';
            elsif kind = 'array' then
                if jsonb_array_length(layer) = 0 then
                    fault := coalesce(fault, 'body_is_empty_batch');
                elsif jsonb_typeof(layer -> 0) = 'string' and layer ->> 0 like '%S3Pointer' then
                    -- SQS's extended client left the body in S3
                    fault := coalesce(fault, 'body_in_s3');
                else
                    envelopes := envelopes || 'batch'::text;
                    fault := coalesce(fault, case
                        when 'batch' <> all(staging.envelopes()) then 'body_is_batch'
                        when jsonb_array_length(layer) > 10000 then 'body_is_too_large_batch'
                    end);
                end if;
            elsif kind <> 'object' then
                fault := coalesce(fault, 'body_not_an_object');
            elsif layer ? 'TopicArn' and layer ->> 'Type' in ('SubscriptionConfirmation', 'UnsubscribeConfirmation') then
                fault := coalesce(fault, 'body_is_sns_confirmation');
            elsif layer ? 'TopicArn' and layer ->> 'Type' = 'Notification' and jsonb_typeof(layer -> 'Message') = 'string' then
                envelope := 'sns';
                field := 'Message';
            elsif layer ?& '{detail-type,source}' and jsonb_typeof(layer -> 'detail') in ('object', 'array', 'string') then
                envelope := 'eventbridge';
                field := 'detail';
            elsif layer ?& '{specversion,type,source}' then
                if jsonb_typeof(layer -> 'data') in ('object', 'array', 'string') then
                    envelope := 'cloudevents';
                    field := 'data';
                elsif jsonb_typeof(layer -> 'data_base64') = 'string' then
                    envelope := 'cloudevents';
                    field := 'data_base64';
                elsif layer ? 'dataref' then
                    fault := coalesce(fault, 'body_in_cloudevents_dataref');
                end if;
            elsif layer #>> '{Records,0,eventSource}' = 'aws:s3' then
                fault := coalesce(fault, 'body_is_s3_event');
            end if;
            if field is not null then
                -- as json, which keeps what is inside as it was sent
                inside := case when jsonb_typeof(layer -> field) = 'string' then layer ->> field else content::json ->> field end;
                field := null;
            end if;
        else
            -- the alphabet for URLs, line breaks
            packed := case when content ~ '[-_ \t\r\n]' then translate(content, E'-_ \t\r\n', '+/') else content end;
            if packed ~ '^([A-Za-z0-9+/]{4})*[A-Za-z0-9+/]{2,4}={0,2}$' then
                packed := rtrim(packed, '=');
                bytes := decode(rpad(packed, (length(packed) + 3) / 4 * 4, '='), 'base64');
                envelope := 'base64';
                if starts_with(encode(substr(bytes, 1, 2), 'hex'), '1f8b') then
                    envelope := 'gzip';
                    bytes := staging.gunzip(bytes);
                end if;
                -- an encoding's error would end the run, so look first
                if position('\x00'::bytea in bytes) = 0 then
                    if convert_from(bytes, 'LATIN1') ~ '^[ \t\r\n]*["[{]' then
                        if convert_from(bytes, 'LATIN1') ~ utf8 then
                            inside := convert_from(bytes, 'UTF8');
                        end if;
                    end if;
                end if;
            end if;
            if inside is null then
                fault := coalesce(fault, 'body_not_json');
            end if;
        end if;

        exit when inside is null;
        if cardinality(envelopes) = 8 then
            fault := coalesce(fault, 'body_in_too_many_envelopes');
            exit;
        end if;
        envelopes := envelopes || envelope;
        content := inside;
        fault := coalesce(fault, case when envelope <> all(staging.envelopes()) then 'body_in_' || envelope end);
    end loop;
end
$$;
