# The image of the sidecar, the gate, the controller and the webhook: one program, `storageformat`.
#
#     docker build -t storageformat-operator .
#
# It runs as any user, with a read-only root file system, and needs no home.

# Pinned by version, not by digest: the builders that made it had no way to a registry to look one
# up. Any image will do that has Python 3.11 or later as `python3`, with pip.
ARG BASE=docker.io/library/python:3.13.9-slim-bookworm

FROM ${BASE} AS dependencies

# A package index of one's own and the authority that it is signed by, where the builder has them.
# Nothing of it gets into the image.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_CERT
ARG UV_DEFAULT_INDEX
ARG UV_INDEX
ARG UV_INSECURE_HOST
ARG SSL_CERT_FILE

WORKDIR /src
COPY devtools/image/tools.txt .
RUN python3 -m pip install --quiet --no-cache-dir --no-compile --disable-pip-version-check \
        --root-user-action=ignore --target /tools --require-hashes --only-binary :all: -r tools.txt

ENV UV_FROZEN=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_NO_DEV=1 \
    UV_PROJECT_ENVIRONMENT=/opt/storageformat \
    UV_PYTHON=python3 UV_PYTHON_DOWNLOADS=never \
    PYTHONOPTIMIZE=1

COPY pyproject.toml uv.lock ./
RUN /tools/bin/uv sync --quiet --extra operator --extra otel --no-install-project \
    && find /opt/storageformat/bin -type f -delete

COPY devtools/image/precompile.py .
# Said here alone: what uv runs to build a package would leave its own bytecode there.
ARG PYCACHE=/opt/storageformat/bytecode
RUN PYTHONPYCACHEPREFIX=${PYCACHE} /opt/storageformat/bin/python precompile.py kubernetes.aio \
        opentelemetry.exporter.otlp.proto.http.trace_exporter \
        opentelemetry.sdk.trace

FROM dependencies AS build

ARG PYCACHE=/opt/storageformat/bytecode

COPY README.md LICENSE ./
COPY operator operator
COPY store store
# What is new since the step began is ours, and becomes a layer of its own: an upgrade pulls that. uv_cache.json holds the time
# of the build, and would make every image another one.
RUN PYTHONPATH=/tools python3 -m hatchling build --target wheel --directory /wheel \
    && touch /before \
    && /tools/bin/uv pip install --quiet --offline --no-deps \
        --python /opt/storageformat/bin/python /wheel/*.whl \
    && cd /opt/storageformat/lib/python3*/site-packages/storageformat_operator-*.dist-info \
    && rm -f uv_cache.json && sed -i /uv_cache.json/d RECORD && cd /src \
    && PYTHONPYCACHEPREFIX=${PYCACHE} /opt/storageformat/bin/python precompile.py format_operator format_store \
    && mkdir /ours \
    && cd / \
    && find opt/storageformat -type f -cnewer /before -print0 | xargs -0 cp --parents -t /ours

FROM ${BASE}

COPY --from=dependencies /opt/storageformat /opt/storageformat

ARG VERSION=0.0.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="storageformat-operator" \
      org.opencontainers.image.description="Converts the embedded databases of Kubernetes pods to another on-disk format" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

COPY --from=build /ours /

ENV PATH=/opt/storageformat/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONOPTIMIZE=1 \
    PYTHONPYCACHEPREFIX=/opt/storageformat/bytecode \
    PYTHONUNBUFFERED=1

# By number, so that Kubernetes can see that it is not root. Any other will do as well.
USER 65532:65532
ENTRYPOINT ["storageformat"]
