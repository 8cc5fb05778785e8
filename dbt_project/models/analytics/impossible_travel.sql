with

user_logins as (

    select * from {{ ref('user_logins') }}

    where
        sent_at >= now() - interval '720 hours'
        and ip_country is not null

),

in_order as (

    select
        login_id,
        user_id,
        ip_country,
        sent_at,
        lag(ip_country) over (partition by user_id order by sent_at, login_id) as country_before,
        lag(sent_at) over (partition by user_id order by sent_at, login_id) as sent_at_before

    from user_logins

),

impossible_travel as (

    select
        login_id,
        user_id,
        country_before,
        ip_country as country,
        {{ sent_at_for_analysts('sent_at_before') }} as login_before_at,
        {{ sent_at_for_analysts('sent_at') }} as login_at,
        floor(extract(
            epoch from {{ sent_at_for_analysts('sent_at') }} - {{ sent_at_for_analysts('sent_at_before') }}
        ) / 60)::integer as minutes

    from in_order

    where
        country_before <> ip_country
        and sent_at - sent_at_before < interval '60 minutes'

)

select * from impossible_travel
