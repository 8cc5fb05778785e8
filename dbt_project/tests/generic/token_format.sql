{% test token_format(model, column_name) %}
-- Every token is its key's version and 128 bits in hex.
select 1 as malformed
from {{ model }}
where {{ column_name }} !~ '^v[0-9]+:[0-9a-f]{32}$'
{% endtest %}
