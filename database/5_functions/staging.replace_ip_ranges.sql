-- Has staging.ip_ranges say what the file's lines in pg_temp.lines say, and nothing else, and returns how many ranges that are. An address
-- is a text, a range is a first and a last one or a network; a line with neither country nor operator is skipped. A country, or an operator
-- in one, that no range gives a whole IPv4 /24 or IPv6 /48 is left out: it would say nearly as much as the address.
create or replace function staging.replace_ip_ranges(name text, date date)
returns bigint language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
    ranges bigint;
begin
    create temporary table ranges on commit drop as
    select
        number,
        case when pg_input_is_valid(first_ip, 'inet') then host(network(first_ip::inet))::inet end as first_ip,
        case
            when last_ip is null and pg_input_is_valid(first_ip, 'inet') then host(broadcast(first_ip::inet))::inet
            when pg_input_is_valid(last_ip, 'inet') then last_ip::inet
        end as last_ip,
        case when upper(country) ~ '^[A-Z]{2}$' and upper(country) != 'ZZ' then upper(country) end as country,
        case when asn ~* '^(AS)?[0-9]{1,10}$' then nullif(regexp_replace(asn, '^AS', '', 'i')::bigint, 0) end as asn
    from pg_temp.lines;

    select number, fault into found
    from (
        select
            number,
            case
                when first_ip is null or last_ip is null then 'has no address or network where one should be'
                when family(first_ip) != family(last_ip) or first_ip > last_ip then 'has a range that ends before it begins'
                when first_ip <= lag(last_ip) over (partition by family(first_ip) order by first_ip) then 'overlaps another range'
                when asn > 4294967295 then 'has a number that is no AS number'
            end as fault
        from pg_temp.ranges
    ) as checked
    where fault is not null
    order by number
    limit 1;
    if found is not null then
        raise exception 'line % %', found.number, found.fault;
    end if;

    update staging.ip_ranges set first_numbers = null, countries = null, asns = null where first_numbers is not null;
    with

    edges as (
        select
            *,
            network(set_masklen(first_ip, case family(first_ip) when 4 then 24 else 48 end)) as first_network,
            network(set_masklen(last_ip, case family(last_ip) when 4 then 24 else 48 end)) as last_network
        from pg_temp.ranges
        where country is not null or asn is not null
    ),

    aligned as (
        select
            *,
            first_ip = host(first_network)::inet as begins_one,
            last_ip = host(broadcast(last_network))::inet as ends_one
        from edges
    ),

    measured as (
        select
            *,
            case
                when begins_one and ends_one then true
                when begins_one or ends_one then first_network != last_network
                else first_network != last_network and host(broadcast(first_network))::inet + 1 < host(last_network)::inet
            end as has_network
        from aligned
    ),

    placed as (
        select
            first_ip,
            -- behind the last address of all there is nothing
            case when last_ip < host(broadcast(set_masklen(last_ip, 0)))::inet then last_ip + 1 end as next_ip,
            lead(first_ip) over (partition by family(first_ip) order by first_ip) as next_first_ip,
            case when bool_or(has_network) over (partition by country) then country end as country,
            case when bool_or(has_network) over (partition by country, asn) then asn end as asn
        from measured
    ),

    bounds as (
        select first_ip as ip, country, asn from placed
        union all
        select next_ip, null, null from placed where next_ip is distinct from next_first_ip and next_ip is not null
        union all
        -- behind the last IPv4 address
        select '::1:0:0', null, null
    )

    insert into staging.ip_ranges (file_name, file_date, ranges, first_numbers, countries, asns)
    select
        name,
        date,
        (select count(*) from placed),
        array_agg(masking.ip_number(ip) order by ip),
        array_agg(coalesce((ascii(country) - 65) * 26 + ascii(right(country, 1)) - 64, 0)::smallint order by ip),
        array_agg(coalesce(asn, 0) order by ip)
    from bounds
    returning ip_ranges.ranges into ranges;
    return ranges;
end
$$;
