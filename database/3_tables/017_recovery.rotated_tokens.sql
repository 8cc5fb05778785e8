-- One row per token that a rotation in progress replaces. Its two keys are the proof that old and new tokens match one to one:
-- no old token has two new ones, and no two old tokens share one.
create table recovery.rotated_tokens (
    old_token text primary key,
    new_token text not null unique
);

comment on table recovery.rotated_tokens is
'Old and new token of every value whose plain text is still there; empty but for a rotation in progress.';
comment on column recovery.rotated_tokens.old_token is 'Token under the key in use.';
comment on column recovery.rotated_tokens.new_token is 'Token of the same value under the next key.';
