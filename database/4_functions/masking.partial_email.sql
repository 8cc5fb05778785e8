-- An e-mail address for reading, all of the mailbox struck out but its first character: axxx@example.com,
-- with three x for a name of any length. Not identifying and not secret. What has no single @ is struck out wholly.
create or replace function masking.partial_email(value text)
returns text
language sql
immutable
strict
parallel safe
return case
    when value ~ '^[^@]+@[^@]+$'
        then left(value, 1) || 'xxx@' || substring(value from '@(.*)$')
    else 'x'
end;

comment on function masking.partial_email(text) is
'E-mail address with its mailbox struck out but the first character. For reading: neither identifying nor secret.';
