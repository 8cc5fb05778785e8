-- app_version_parts, written with dots, is app_version without leading zeros; so the parts sort as the version's numbers do.
-- depends_on: {{ ref('rejected_logins') }}
-- (a dbt build in which this fails has recorded its rejections)
with

user_logins as (

    select * from {{ ref('user_logins') }}

)

select app_version
from user_logins
where
    array_to_string(app_version_parts, '.') <> regexp_replace(app_version, '(^|[.])0+(?=[0-9])', '\1', 'g')
    or (app_version_parts is null and app_version ~ '^[0-9]{1,9}([.][0-9]{1,9})*$')
