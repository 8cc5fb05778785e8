-- What an engineer looks at, as the role that the file is named after.
\pset footer off
\echo 'marts.rejected_logins: why messages were rejected'
select reasons, count(*) as messages from marts.rejected_logins group by reasons order by messages desc, reasons;
