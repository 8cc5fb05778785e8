{{ config(alias='user_logins') }}

with

user_logins as (

    select * from {{ ref('user_logins') }}

)

select {{ columns_for_analysts() }}

from user_logins
