{{ config(alias='user_logins') }}

with

user_logins as (

    select * from {{ ref('user_logins') }}

)

select
    {{ columns_for_analysts() }},
    {{ sent_at_for_analysts() }} as sent_at

from user_logins
