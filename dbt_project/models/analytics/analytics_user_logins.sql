{{ config(alias='user_logins') }}

with

user_logins as (

    select * from {{ ref('user_logins') }}

)

select
    {%- for column in columns_for_analysts() %}
    {{ column }}{{ ',' if not loop.last }}
    {%- endfor %}

from user_logins
