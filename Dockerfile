# The daemon and its client in one image: no shell is needed at run time, any uid will do.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
# The time of everything in it: equal trees make equal images.
ARG SOURCE_DATE_EPOCH=0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements/build.txt requirements/runtime.txt requirements/
# Two venvs: what makes the wheel stays behind.
RUN python3 -m venv /build \
 && /build/bin/pip install --require-hashes -r requirements/build.txt \
 && python3 -m venv --without-pip /opt/cachd \
 && /build/bin/pip --python /opt/cachd/bin/python install --only-binary :all: \
      --no-compile --require-hashes -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY cachd cachd
# Of the descriptions of AWS's services only those stay that listing and credentials need. Compiled
# modules carry no time and are never compared with their source, which can't change: a quick start.
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /build/bin/pip --python /opt/cachd/bin/python install --no-deps --no-index \
      --no-compile /wheels/*.whl \
 && find /opt/cachd/lib/python3*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name signin ! -name sso ! -name sso-oidc ! -name sts -exec rm -r {} + \
 && /opt/cachd/bin/python -m compileall -qf --invalidation-mode unchecked-hash /opt/cachd/lib

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/cachd /opt/cachd
RUN install -d -o 10001 -g 10001 -m 0755 /var/cache/cachd /run/cachd
ENV PATH=/opt/cachd/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CACHD_STORE_ROOT=/var/cache/cachd \
    CACHD_SOCKET=/run/cachd/cachd.sock \
    CACHD_LISTEN_HEALTH_ADDRESS=0.0.0.0:9440
USER 10001:10001
EXPOSE 9440
ENTRYPOINT ["python", "-m", "cachd"]
CMD ["serve"]
