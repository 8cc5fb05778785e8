"""The aggregated views can be passed on: neither a row nor a difference between rows is about fewer than five people."""

import itertools

from tests.support import Database

FEWEST_USERS = 5
# Of 19 users on the first day one has a console and four are in Iceland; the second day has four users in all.
LOGINS = """
    truncate marts.user_logins;
    insert into marts.user_logins (
        user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date, ip_is_valid, message_id, sent_at
    )
    select
        'u' || n, case when n = 1 then 'console' when n < 9 then 'ios' else 'android' end, 'v1:', 'v1:',
        case when n < 5 then 'IS' when n < 12 then 'NO' end, case when n < 14 then '1.' || n else '2.0' end,
        date '2024-02-29', true, 'm' || n, now()
    from generate_series(1, 19) as n
    union all
    select 'u' || n, 'ios', 'v1:', 'v1:', 'DE', '2.0', date '2024-03-01', true, 'n' || n, now() from generate_series(1, 4) as n
"""
# What one would write first: the small groups are left out, and every total still counts them.
NAIVE = """
    drop view analytics.daily_logins;
    create view analytics.daily_logins as
    select create_date, dimension, false as is_rest, dimension_value, count(*) as logins, count(distinct user_id) as distinct_users
    from marts.user_logins
    cross join unnest(array['device_type', 'locale'], array[device_type, locale]) as trait (dimension, dimension_value)
    group by create_date, dimension, dimension_value
    having count(distinct user_id) >= 5
    union all
    select create_date, 'all', false, null, count(*), count(distinct user_id) from marts.user_logins group by create_date;
    grant select on analytics.daily_logins to analyst
"""


def rows(database: Database) -> list[tuple[str, str | None, bool, int, int]]:
    query = "select dimension, dimension_value, is_rest, logins, distinct_users from analytics.daily_logins order by 1, 3, 2"
    return [(*row,) for row in database.rows(query, "analyst")]


def smallest_difference(found: list[tuple[str, str | None, bool, int, int]]) -> int:
    """The fewest people (nobody logs in twice) between a total of one dimension and a sum of rows of the same or another one."""
    sums, totals = {0}, set()
    for dimension in {dimension for dimension, *_ in found}:
        logins = [count for name, _, _, count, _ in found if name == dimension]
        totals.add(sum(logins))
        for size in range(1, len(logins) + 1):
            sums |= {sum(some) for some in itertools.combinations(logins, size)}
    return min(abs(total - some) for total in totals for some in sums if total != some)


def test_no_row_and_no_pair_of_totals_is_about_fewer_than_five_people(masked: Database) -> None:
    """That a row of fewer would be noticed is shown with the dbt test assert_no_small_group_is_published."""
    masked.execute(LOGINS)
    assert rows(masked) == [
        ("app_version", "2.0", False, 6, 6),
        ("app_version", None, True, 13, 13),
        ("device_type", "android", False, 11, 11),
        ("device_type", None, True, 8, 8),
        ("ip_country", None, False, 19, 19),
        ("locale", None, False, 8, 8),
        ("locale", None, True, 11, 11),
    ]
    assert smallest_difference(rows(masked)) >= FEWEST_USERS
    masked.execute(NAIVE)
    assert min(users for dimension, *_, users in rows(masked) if dimension != "all") >= FEWEST_USERS
    # 19 in all, 11 on android, 7 on ios: so there is one on something else
    assert smallest_difference(rows(masked)) == 1


def test_a_date_on_which_fewer_than_five_people_have_a_new_device_or_come_back_is_not_shown(masked: Database) -> None:
    """On the second date four of nine come with a new device; on the third, five."""
    masked.execute("truncate marts.user_logins")
    for date, first, last in (("2024-02-27", 1, 10), ("2024-02-28", 6, 14), ("2024-02-29", 10, 19)):
        masked.execute(f"""
            insert into marts.user_logins (
                user_id, device_type, masked_ip, masked_device_id, app_version, create_date, message_id, sent_at
            )
            select 'u' || n, 'ios', 'v1:', 'v1:' || n, '1', '{date}', '{date}' || n, now() from generate_series({first}, {last}) as n
        """)
    assert masked.rows("select create_date::text, new_devices, returning_devices from analytics.daily_devices", "analyst") == [
        ("2024-02-29", 5, 5)
    ]
