{#
    Puts every rejected message whose body is still there up for judgement by today's rules; the next `dbt run` judges them.
    One statement, so that each message is either rejected or awaits judgement, whatever breaks off.
#}
{% macro judge_again() %}
    {% set rejected_logins = ref('rejected_logins') %}
    {% call statement('judge_again', fetch_result=True, auto_begin=True) %}
        with

        again as materialized (

            select staging.judge_again(array(select message_id from {{ rejected_logins }})) as message_id

        ),

        taken_back as (

            delete from {{ rejected_logins }} as rejected
            using again
            where rejected.message_id = again.message_id
            returning rejected.message_id

        )

        select count(*) from taken_back
    {% endcall %}
    {% do adapter.commit() %}
    {{ log(load_result('judge_again')['data'][0][0] ~ ' rejected messages await judgement', info=True) }}
{% endmacro %}

{# Once after a restore into a new server: see docs/restoring.md. #}
{% macro resume_after_restore() %}
    {% call statement('resume', fetch_result=True, auto_begin=True) %}
        select staging.resume_here()
    {% endcall %}
    {% do adapter.commit() %}
    {{ log('watermarks are at the beginning, ' ~ load_result('resume')['data'][0][0] ~ ' rows landed anew; now dbt run', info=True) }}
{% endmacro %}
