-- Every domain that the dbt models mask has a key, and so have the tombstones of erased persons.

select masking.create_key(wanted.domain) as version
from (values ('ip'), ('invalid_ip'), ('network'), ('device_id'), ('erased_user')) as wanted (domain)
where wanted.domain not in (select keys.domain from masking.keys);
