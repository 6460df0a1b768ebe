# The daemon, its commands, and nothing that builds them. docs/INSTALL.md says how to run it.
# Whoever builds images for real pins the base: --build-arg BASE=python:3.11-slim-bookworm@sha256:…
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS built
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/run.txt ./requirements/
# pip stays outside of what is copied on: what runs cannot install anything.
RUN python -m venv /opt/tools \
 && /opt/tools/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt \
 && python -m venv --without-pip /opt/kie-reconciler \
 && /opt/tools/bin/pip --python /opt/kie-reconciler/bin/python install --require-hashes --only-binary :all: -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY sql ./sql
COPY reconciler ./reconciler
RUN /opt/tools/bin/python -m hatchling build -t wheel -d /wheel \
 && /opt/tools/bin/pip --python /opt/kie-reconciler/bin/python install --no-index --no-deps /wheel/*.whl

FROM ${BASE}
RUN groupadd --gid 10001 reconciler \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin reconciler \
 && install -d -o 10001 -g 10001 -m 0700 /var/spool/kie-reconciler
COPY --from=built /opt/kie-reconciler /opt/kie-reconciler
# The port is reached from outside of the container. Secrets may lie in files, each called as its setting.
ENV PATH=/opt/kie-reconciler/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CREDENTIALS_DIRECTORY=/run/secrets \
    RECONCILER_HTTP_HOST=0.0.0.0 \
    RECONCILER_HTTP_PORT=9464 \
    RECONCILER_SPOOL_DIR=/var/spool/kie-reconciler
# The only place that is written to; the root file system may be read-only.
VOLUME /var/spool/kie-reconciler
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
# /healthz and not /readyz: a daemon that waits for its database is well, and a restart would not bring that back.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import http.client, os, sys; there = http.client.HTTPConnection('127.0.0.1', int(os.environ['RECONCILER_HTTP_PORT']), timeout=4); there.request('GET', '/healthz'); sys.exit(there.getresponse().status != 200)"]
ENTRYPOINT ["kie-reconciler"]
CMD ["run"]
ARG BASE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kie-reconciler" \
      org.opencontainers.image.description="Makes sure that whoever paid for a KIE.ai generation gets it" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
