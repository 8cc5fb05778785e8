{% test names_rules(model, column_name) %}
-- Every reason is the name of a rule: what was judged, and what is wrong with it. At least one, and none twice.
select 1 as unknown
from {{ model }}
where
    cardinality({{ column_name }}) = 0
    or exists (
        select from unnest({{ column_name }}) as reasons (reason)
        where reason !~ '^(body_(is|in|not)_[a-z0-9_]+|[^ ]+_(missing|not_text|not_a_number|not_a_boolean|empty|too_long|personal))$'
    )
    or cardinality({{ column_name }}) <> (select count(distinct reason) from unnest({{ column_name }}) as reasons (reason))
{% endtest %}
