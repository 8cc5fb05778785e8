"""dbt as a service: what has landed is judged and masked a second or two later."""
