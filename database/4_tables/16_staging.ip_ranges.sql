-- Where an address is: one row per range of addresses, none of which overlap. `python -m loader ranges` replaces them all. A lookup reads
-- one page of the index to its beginning, so the pages are short.
create table staging.ip_ranges (
    first_ip inet primary key with (fillfactor = 25),
    last_ip inet not null,
    -- ISO 3166-1 alpha-2
    country varchar(2) check (country ~ '^[A-Z]{2}$'),
    -- number of the operator's autonomous system (RFC 6793)
    asn bigint check (asn between 1 and 4294967295),
    check (family(first_ip) = family(last_ip) and first_ip <= last_ip)
);

-- Each file of ranges that was loaded, so that a login's place can be traced to its source.
create table marts.ip_range_files (
    loaded_at timestamptz primary key default clock_timestamp(),
    file_name text not null,
    -- when the file was last changed, UTC
    file_date date not null,
    ranges bigint not null
);
