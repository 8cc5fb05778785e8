-- ANALYZE, which is there for the number of pairs, must not copy tokens into pg_statistic, where they outlive the rotation.
alter table recovery.rotated_tokens
alter column old_token set statistics 0,
alter column new_token set statistics 0;
