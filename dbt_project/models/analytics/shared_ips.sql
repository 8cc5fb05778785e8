with

user_logins as (

    select * from {{ ref('user_logins') }}

),

shared_ips as (

    select
        masked_ip,
        count(*) as logins,
        count(distinct user_id) as distinct_users,
        min(create_date) as first_date,
        max(create_date) as last_date

    from user_logins

    where masked_ip is not null

    group by masked_ip

    having count(*) > 1

)

select * from shared_ips
