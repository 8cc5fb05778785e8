{% test one_row_per(model, columns) %}
-- The grain: no two rows have the same values in these columns, where null equals null. Without a column, there is one row at most.
select 1 as duplicate
from {{ model }}
group by ({{ columns | join(', ') }})
having count(*) > 1
{% endtest %}
