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
    layer json;
    fields jsonb;
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
            layer := content;
            if json_typeof(layer) = 'string' then
                envelope := 'json_text';
                inside := layer #>> '{}';
            elsif json_typeof(layer) = 'array' then
                if json_array_length(layer) = 0 then
                    fault := coalesce(fault, 'body_is_empty_batch');
                elsif layer ->> 0 like '%S3Pointer' and json_typeof(layer -> 0) = 'string' then
                    -- SQS's extended client left the body in S3
                    fault := coalesce(fault, 'body_in_s3');
                else
                    envelopes := envelopes || 'batch'::text;
                    fault := coalesce(fault, case when 'batch' <> all(staging.envelopes()) then 'body_is_batch' end);
                end if;
                return;
            elsif json_typeof(layer) = 'object' then
                fields := content;
                if fields ->> 'Type' in ('SubscriptionConfirmation', 'UnsubscribeConfirmation') and fields ? 'TopicArn' then
                    fault := coalesce(fault, 'body_is_sns_confirmation');
                    return;
                elsif fields ->> 'Type' = 'Notification' and fields ? 'TopicArn' and jsonb_typeof(fields -> 'Message') = 'string' then
                    envelope := 'sns';
                    inside := layer ->> 'Message';
                elsif fields ?& '{detail-type,source}' and jsonb_typeof(fields -> 'detail') in ('object', 'array', 'string') then
                    envelope := 'eventbridge';
                    inside := layer ->> 'detail';
                elsif fields ?& '{specversion,type,source}' then
                    if jsonb_typeof(fields -> 'data') in ('object', 'array', 'string') then
                        envelope := 'cloudevents';
                        inside := layer ->> 'data';
                    elsif jsonb_typeof(fields -> 'data_base64') = 'string' then
                        envelope := 'cloudevents';
                        inside := layer ->> 'data_base64';
                    elsif fields ? 'dataref' then
                        fault := coalesce(fault, 'body_in_cloudevents_dataref');
                        return;
                    end if;
                elsif fields #>> '{Records,0,eventSource}' = 'aws:s3' then
                    fault := coalesce(fault, 'body_is_s3_event');
                    return;
                end if;
            else
                fault := coalesce(fault, 'body_not_an_object');
            end if;
        else
            packed := rtrim(translate(content, E'-_ \t\r\n', '+/'), '=');
            if packed ~ '^[A-Za-z0-9+/]+$' and length(packed) % 4 <> 1 then
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
            return;
        end if;
        envelopes := envelopes || envelope;
        content := inside;
        fault := coalesce(fault, case when envelope <> all(staging.envelopes()) then 'body_in_' || envelope end);
    end loop;
end
$$;
