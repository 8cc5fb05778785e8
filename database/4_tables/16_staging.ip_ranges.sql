-- Each file of address ranges that was loaded, one row a file; `python -m loader ranges` adds one. The last one has three arrays of equal
-- length, sorted by the address: width_bucket() finds an address in them, in every parallel worker, in a third of the time of an index.
create table staging.ip_ranges (
    loaded_at timestamptz primary key default clock_timestamp(),
    file_name text not null,
    -- when the file was last changed, UTC
    file_date date not null,
    ranges bigint not null,
    -- where what follows begins, as masking.ip_number() has it; and it ends where the next one begins
    first_numbers uuid[],
    -- ISO 3166-1 alpha-2, from AA = 1 to ZZ = 676; 0 for none
    countries smallint[],
    -- number of the operator's autonomous system (RFC 6793); 0 for none
    asns bigint[]
);
create unique index on staging.ip_ranges ((true)) where first_numbers is not null;
-- compressed, they would be unpacked for each run
alter table staging.ip_ranges
alter column first_numbers set storage external,
alter column countries set storage external,
alter column asns set storage external;
