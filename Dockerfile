# Target `production` is one image for the loader, the migration, dbt and recovery; the command says which:
#   python -m loader migrate | python -m loader drain | python -m loader follow | python -m transform follow | dbt build |
#   python -m recovery expire
# Target `sandbox` adds what a laptop and CI need (the SQS emulator, sample events, tests) and is never deployed.
#
# The base image is named by its tag until Renovate pins its digest (.github/renovate.json); ci.yml prints the digest that it used.

FROM python:3.13-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# without pip: nothing is installed at run time
RUN python -m venv --without-pip /opt/venv
COPY requirements.lock /
RUN pip --python /opt/venv/bin/python install -qq --require-hashes --requirement /requirements.lock

COPY loader /app/loader
COPY transform /app/transform
COPY recovery /app/recovery
COPY database /app/database
COPY dbt_project /app/dbt_project
# certificates of managed servers; see its README.md
COPY deploy/certificates /app/certificates
# compiled here, because the container cannot write
RUN /opt/venv/bin/python -m compileall -q /app/loader /app/transform /app/recovery

# Common to both images: an unprivileged user, no writable file, all settings from the environment.
FROM python:3.13-slim AS base

# exports each secret that is mounted as a file
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
# the only place to write: dbt compiles here
VOLUME ["/tmp"]
# any other uid works too: this one owns no file in the image
USER 10001:10001
ENTRYPOINT ["with-secrets"]
CMD ["python", "-m", "loader", "follow"]
EXPOSE 9464
# for `follow`, the default command; a command that runs and exits needs none
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as web; web.urlopen(f\"http://127.0.0.1:{os.environ['LOADER_HTTP_PORT']}/live\", timeout=4)"]

FROM build AS build-sandbox

COPY requirements-dev.lock /
RUN pip --python /opt/venv/bin/python install -qq --require-hashes --requirement /requirements-dev.lock

FROM base AS sandbox

# a new volume has the owner of the folder that it is mounted on
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
