-- Every domain that the dbt models mask has a key.

select masking.create_key(wanted.domain) as version
from (values ('ip'), ('invalid_ip'), ('device_id')) as wanted (domain)
where not exists (select from masking.keys where keys.domain = wanted.domain);
