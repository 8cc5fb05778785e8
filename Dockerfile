# Target `production` is the one image of the loader, the migration, dbt and the acts of recovery; what runs is the command:
#   python -m loader migrate | python -m loader drain | python -m loader follow | dbt run | python -m recovery expire
# Target `sandbox` adds what a laptop and CI need (the SQS emulator, sample events, tests) and is never deployed.
#
# The base image stands by its tag until .github/renovate.json has its digest put here; ci.yml prints the one that it built on.

FROM python:3.13-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# without pip: nothing is to be installed where it runs
RUN python -m venv --without-pip /opt/venv
COPY requirements.lock /
RUN pip --python /opt/venv/bin/python install -qq --require-hashes --requirement /requirements.lock

COPY loader /app/loader
COPY recovery /app/recovery
COPY database /app/database
COPY dbt_project /app/dbt_project
# how a managed server is known; see its README.md
COPY deploy/certificates /app/certificates
# compiled here, for where it runs nothing can be written
RUN /opt/venv/bin/python -m compileall -q /app/loader /app/recovery

# What both images are: nobody's account, nothing that it may write, all settings from the environment.
FROM python:3.13-slim AS base

# shows each secret that is mounted as a file to the program as the variable of that name
COPY --chmod=0555 deploy/with-secrets /usr/local/bin/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DBT_PROJECT_DIR=/app/dbt_project \
    DBT_PROFILES_DIR=/app/dbt_project/profiles \
    DBT_TARGET_PATH=/tmp/target \
    DBT_LOG_PATH=/tmp/logs \
    DBT_USE_COLORS=false \
    LOADER_HTTP_HOST=0.0.0.0 \
    LOADER_HTTP_PORT=9464 \
    HOME=/tmp
WORKDIR /app
# where nothing else may be written: what dbt compiles
VOLUME ["/tmp"]
# any other uid does as well: nothing in the image belongs to this one
USER 10001:10001
ENTRYPOINT ["with-secrets"]
CMD ["python", "-m", "loader", "follow"]
EXPOSE 9464
# of `follow`, the default command; what runs to its end and exits needs none
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as web; web.urlopen(f\"http://127.0.0.1:{os.environ['LOADER_HTTP_PORT']}/live\", timeout=4)"]

FROM build AS build-sandbox

COPY requirements-dev.lock /
RUN pip --python /opt/venv/bin/python install -qq --require-hashes --requirement /requirements-dev.lock

FROM base AS sandbox

# a new volume takes over the owner of the folder that it is mounted on
USER 0
RUN install --directory --owner 10001 --group 10001 /secrets/admin /secrets/loader /secrets/transformer /secrets/analyst /secrets/privacy-officer
USER 10001:10001
COPY --from=build-sandbox /opt/venv /opt/venv
COPY --from=build-sandbox /app /app
COPY pyproject.toml .env.example /app/
COPY sandbox /app/sandbox
COPY deploy/compose /app/deploy/compose
COPY tests /app/tests

FROM base AS production

COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
