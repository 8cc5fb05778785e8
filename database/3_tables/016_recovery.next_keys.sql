-- The keys that a rotation in progress changes to. They move to masking.keys, where they take effect, in the
-- transaction that changes the tokens.
create table recovery.next_keys (
    like masking.keys including all
);

alter table recovery.next_keys
alter column inner_block set statistics 0,
alter column outer_block set statistics 0;

comment on table recovery.next_keys is 'The keys that a rotation in progress changes to; empty otherwise.';
comment on column recovery.next_keys.domain is 'Kind of value, as in masking.keys.';
comment on column recovery.next_keys.version is 'The version that it will have.';
comment on column recovery.next_keys.inner_block is 'Key xor ipad, 64 bytes (RFC 2104).';
comment on column recovery.next_keys.outer_block is 'Key xor opad, 64 bytes (RFC 2104).';
comment on column recovery.next_keys.created_at is 'When the key was generated, UTC.';
