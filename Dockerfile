# syntax=docker/dockerfile:1
# One image for every command: `serve` (the default), `worker`, `migrate upgrade`, `doctor`, …
# The tag names a minor release of Python and follows its security fixes. To fix every byte, give a digest:
# docker build --build-arg PYTHON_IMAGE=python:3.13-slim-trixie@sha256:… .
ARG PYTHON_IMAGE=python:3.13-slim-trixie

# --- What every stage that builds begins with -------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# --- The wheel; hatchling comes from a lock, not from pip's build isolation --------------------------------------------
FROM base AS wheel
COPY requirements-build.lock ./
RUN python -m pip install --quiet --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m hatchling build -t wheel -d /wheel

# --- The environment: hash-pinned wheels alone, so that no compiler is needed; without pip -----------------------------
FROM base AS environment
RUN python -m venv --without-pip /opt/duly
COPY requirements.lock requirements-extras.lock ./
RUN python -m pip --python /opt/duly/bin/python install --quiet --require-hashes --only-binary :all: \
      -r requirements.lock -r requirements-extras.lock
COPY --from=wheel /wheel /wheel
# The bytecode is made here and never looked at again: the final file system is read-only.
RUN python -m pip --python /opt/duly/bin/python install --quiet --no-index --no-deps /wheel/*.whl \
 && /opt/duly/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/duly/lib \
 && /opt/duly/bin/duly --version

# --- What ships ---------------------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS final
LABEL org.opencontainers.image.title="Duly" \
      org.opencontainers.image.description="The task backend that a developer puts behind any frontend." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="0.5.0"
RUN python -m pip uninstall --quiet --yes --root-user-action=ignore pip \
 && rm -rf /usr/local/lib/python3.*/ensurepip \
 && groupadd --system --gid 10001 duly \
 && useradd --system --uid 10001 --gid duly --home-dir /data --no-create-home --shell /usr/sbin/nologin duly \
 && install -d -o duly -g duly -m 0750 /data /backups
COPY --from=environment /opt/duly /opt/duly
ENV PATH=/opt/duly/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    DATA_DIR=/data
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
USER 10001:10001
STOPSIGNAL SIGTERM
# Readiness, as a balancer would see it. The module is `duly health` without the time to load every other command.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
  CMD ["python", "-m", "duly.cli.checking"]
ENTRYPOINT ["duly"]
CMD ["serve"]
