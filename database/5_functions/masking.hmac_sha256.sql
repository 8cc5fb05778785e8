-- HMAC-SHA-256 (RFC 2104) from PostgreSQL's own sha256(), given the key's two blocks; 32 bytes.
create or replace function masking.hmac_sha256(inner_block bytea, outer_block bytea, message bytea)
returns bytea language sql immutable strict parallel safe
return sha256(outer_block || sha256(inner_block || message));
