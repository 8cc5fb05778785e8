-- Replaces the ranges that masking goes by with those in pg_temp.lines, which are the lines of the file *file_name*, last changed on
-- *file_date*: a range is its first and last address, or a network. Returns how many ranges have a country or an operator, and how many
-- have which. All addresses of one masked_network (an IPv4 /24, an IPv6 /48) get one place, or none where the file has several for them:
-- so a place tells no two addresses apart that masked_network does not.
create or replace function staging.replace_ip_ranges(file_name text, file_date date)
returns table (placed bigint, with_country bigint, with_operator bigint)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    wrong record;
begin
    lock table staging.ip_ranges in share row exclusive mode;

    create temporary table found on commit drop as
    with

    read as (
        select
            number,
            first_ip as first_text,
            last_ip as last_text,
            case when pg_input_is_valid(first_ip, 'inet') then first_ip::inet end as first_read,
            case when pg_input_is_valid(last_ip, 'inet') then last_ip::inet end as last_read,
            upper(country) as country,
            case when asn ~* '^(AS)?[0-9]+$' then regexp_replace(asn, '^AS', '', 'i')::numeric end as asn
        from pg_temp.lines
    ),

    bounded as (
        select
            *,
            case
                when last_text is null and first_read = network(first_read)::inet then array[host(first_read), host(broadcast(first_read))]
                when strpos(concat(first_text, last_text), '/') = 0 then array[host(first_read), host(last_read)]
            end as bounds
        from read
    )

    select
        number,
        -- an IPv4-mapped address is an IPv4 address, as in an event
        masking.canonical_ip(bounds[1])::inet as first_ip,
        masking.canonical_ip(bounds[2])::inet as last_ip,
        case when country ~ '^[A-Z]{2}$' and country != 'ZZ' then country end as country,
        nullif(asn, 0) as asn
    from bounded;

    with

    checked as (
        select
            number,
            case
                when first_ip is null or last_ip is null then 'has no address or network where one should be'
                when family(first_ip) != family(last_ip) or first_ip > last_ip then 'has a range that ends before it begins'
                when first_ip <= lag(last_ip) over (partition by family(first_ip) order by first_ip) then 'overlaps another range'
                when asn > 4294967295 then 'has a number that is no AS number'
            end as fault
        from pg_temp.found
    )

    select number, fault into wrong
    from checked
    where fault is not null
    order by number
    limit 1;
    if wrong is not null then
        raise exception 'line % %', wrong.number, wrong.fault;
    end if;

    select count(*), count(country), count(asn) into placed, with_country, with_operator
    from pg_temp.found
    where country is not null or asn is not null;
    if placed = 0 then
        raise exception 'has no line with a country or an operator';
    end if;

    update staging.ip_ranges set first_numbers = null, countries = null, asns = null where first_numbers is not null;
    with

    -- below 1::, IPv6 has no address of a host, and masking.ip_number() has the IPv4 addresses
    ranges as (
        select
            case when family(first_ip) = 6 then greatest(first_ip, '1::') else first_ip end as first_ip,
            last_ip,
            country,
            asn
        from pg_temp.found
        where (country is not null or asn is not null) and (family(last_ip) = 4 or last_ip >= '1::')
    ),

    -- true where a range does not continue the one before
    compared as (
        select
            *,
            (first_ip, country, asn) is distinct from (lag(last_ip) over ranges_in_order + 1, lag(country) over ranges_in_order, lag(asn) over ranges_in_order)
            as begins_another
        from ranges
        window ranges_in_order as (partition by family(first_ip) order by first_ip)
    ),

    numbered as (
        select
            *,
            count(*) filter (where begins_another) over (partition by family(first_ip) order by first_ip) as number
        from compared
    ),

    merged as (
        select
            -- inet has min() and max() of one family
            min(first_ip) as first_ip,
            max(last_ip) as last_ip,
            country,
            asn
        from numbered
        group by family(first_ip), number, country, asn
    ),

    in_networks as (
        select
            *,
            set_masklen(first_ip, case family(first_ip) when 4 then 24 else 48 end) as first_network,
            set_masklen(last_ip, case family(last_ip) when 4 then 24 else 48 end) as last_network
        from merged
    ),

    -- without the networks at both ends of which only a part is in the range
    trimmed as (
        select
            country,
            asn,
            case
                when first_ip = host(network(first_network))::inet then first_ip
                when last_ip > host(broadcast(first_network))::inet then host(broadcast(first_network))::inet + 1
            end as first_ip,
            case
                when last_ip = host(broadcast(last_network))::inet then last_ip
                when first_ip < host(network(last_network))::inet then host(network(last_network))::inet - 1
            end as last_ip
        from in_networks
    ),

    whole as (
        select
            first_ip,
            country,
            asn,
            -- where the next range does not begin, nothing is known; behind the last address of IPv4 comes 1::, and behind that of IPv6 nothing
            case
                when last_ip = '255.255.255.255' then inet '1::'
                when last_ip < 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff' then last_ip + 1
            end as next_ip
        from trimmed
        where first_ip <= last_ip
    ),

    -- what a range says counts before what is not known
    bounds as (
        select distinct on (masking.ip_number(bound.ip))
            masking.ip_number(bound.ip) as first_number,
            bound.country,
            bound.asn
        from whole
        cross join lateral (
            values (whole.first_ip, whole.country, whole.asn, true), (whole.next_ip, null, null, false)
        ) as bound (ip, country, asn, is_known)
        where bound.ip is not null
        order by masking.ip_number(bound.ip), bound.is_known desc
    )

    insert into staging.ip_ranges (file_name, file_date, ranges, first_numbers, countries, asns)
    select
        replace_ip_ranges.file_name,
        replace_ip_ranges.file_date,
        placed,
        array_agg(first_number order by first_number),
        array_agg(coalesce((ascii(country) - 65) * 26 + ascii(right(country, 1)) - 64, 0)::smallint order by first_number),
        array_agg(coalesce(asn, 0)::bigint order by first_number)
    from bounds;
    if not exists (select from staging.ip_ranges where first_numbers is not null) then
        raise exception 'has no range that is a whole IPv4 /24 or IPv6 /48';
    end if;
    return next;
end
$$;
