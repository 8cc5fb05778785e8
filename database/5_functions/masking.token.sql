-- The token of a value's canonical form under a key: 'v<key version>:' and the first 128 bits of HMAC-SHA-256 as 32 hex digits.
-- Equal forms get equal tokens under one key, and nothing can be computed back without the key. It holds no key itself: the views
-- that masking.apply_fields() makes pass one in, and those who read the views cannot read the key.
create or replace function masking.token(version integer, inner_block bytea, outer_block bytea, canonical_value text)
returns text language sql
-- as convert_to() is; with IMMUTABLE the planner would not inline it
stable
strict
parallel safe
return 'v' || version::text || ':'
|| encode(substr(masking.hmac_sha256(inner_block, outer_block, convert_to(canonical_value, 'UTF8')), 1, 16), 'hex');
