-- Whether a text may hold an address, an email address or a phone number: true wherever masking.holds_personal() finds one, and
-- sometimes elsewhere. It costs less than a microsecond, so it is asked first, of all of an event's plain values joined by a space.
-- One expression, so that the planner inlines it; LIKE costs a fifth of a regular expression.
create or replace function masking.may_hold_personal(values_joined text)
returns boolean language sql immutable parallel safe
return values_joined like '%:%:%' or values_joined like '%.%.%.%' or values_joined like '%-___-____%'
or values_joined ~ '[@+%]|[0-9][ )]([ ()/-]*[0-9]){3}';
