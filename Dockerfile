# Three images from one file; what is in them and how they are checked: images/README.md.
#
#   docker build --target gateway    --tag cascade-gateway .
#   docker build --target engine     --tag cascade-engine .         # stage and decoder, CUDA
#   docker build --target engine-cpu --tag cascade-engine-cpu .     # the same without a GPU: the demo
#
# Mirrors and their passwords: `--secret id=pip,src=pip.conf`, which no layer keeps. Another base, such as a
# newer one or a mirror's: `--build-arg PYTHON=python:TAG@sha256:DIGEST`.
ARG PYTHON=python:3.11.16-slim-trixie@sha256:be1575ed968de893bd54f4c56315ff7c4736ce522c1bca08fd521731aafc0d76

FROM ${PYTHON} AS build
WORKDIR /build
COPY images/install.sh images/
COPY constraints.txt ./

# This project's own wheel, made once: all images hold the same one.
FROM build AS wheel
COPY LICENSE README.md pyproject.toml ./
COPY cascade cascade
COPY cascade_client cascade_client
COPY cascade_core cascade_core
COPY demo_world demo_world
COPY externalscaler externalscaler
COPY services services
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    sh images/install.sh wheel /wheel

# What changes seldom comes first: third-party packages, then our own.
FROM build AS dependencies
COPY images/requirements.py images/
COPY pyproject.toml ./

FROM dependencies AS gateway-build
# What it can do beside: `webrtc` (docs/clients.md), 100 MB.
ARG EXTRAS="client gateway"
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    sh images/install.sh dependencies /opt/cascade ${EXTRAS}
COPY --from=wheel /wheel /wheel
RUN sh images/install.sh application /opt/cascade /wheel

FROM dependencies AS engine-build
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    sh images/install.sh dependencies /opt/cascade stage decoder
COPY --from=wheel /wheel /wheel
RUN sh images/install.sh application /opt/cascade /wheel

FROM dependencies AS engine-cpu-build
# PyPI's torch for Linux brings CUDA; this index has the one without. Empty: take what pip finds by itself.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    sh images/install.sh dependencies /opt/cascade stage decoder
COPY --from=wheel /wheel /wheel
RUN sh images/install.sh application /opt/cascade /wheel

# What every image runs on. Only /tmp is written to, so the root file system can be read-only.
FROM ${PYTHON} AS runtime
RUN --mount=type=bind,source=images,target=/images \
    sh /images/install.sh base /usr/local
ENV PATH=/opt/cascade/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    USER=cascade \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    CASCADE_GRPC_HOST=0.0.0.0
WORKDIR /tmp
STOPSIGNAL SIGTERM
LABEL org.opencontainers.image.vendor="Cascade" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM runtime AS gateway
COPY --from=gateway-build /opt/cascade /opt/cascade
USER 10001:10001
EXPOSE 50051 9090 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-m", "services.common.probe", "50051"]
ENTRYPOINT ["python", "-m", "services.gateway"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="cascade-gateway" \
      org.opencontainers.image.description="Sessions, queue and recovery; holds the command cascade" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS engine
# Triton builds its launcher with a C compiler when `stage.compile` is on, at run time.
RUN --mount=type=bind,source=images,target=/images \
    sh /images/install.sh compiler
COPY --from=engine-build /opt/cascade /opt/cascade
# compute: CUDA; utility: NVML (GPU health); video: NVENC. Which GPUs, only the runtime says: a container that
# asked for none must not see all of them, so NVIDIA_VISIBLE_DEVICES stays unset.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 10001:10001
EXPOSE 50061 50071 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m \
    CMD ["python", "-m", "services.common.probe", "50061", "50071"]
ENTRYPOINT ["python", "-m"]
CMD ["services.stage"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="cascade-engine" \
      org.opencontainers.image.description="Stage (services.stage) and decoder (services.decoder) on CUDA" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS engine-cpu
COPY --from=engine-cpu-build /opt/cascade /opt/cascade
USER 10001:10001
EXPOSE 50061 50071 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m \
    CMD ["python", "-m", "services.common.probe", "50061", "50071"]
ENTRYPOINT ["python", "-m"]
CMD ["services.stage"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="cascade-engine-cpu" \
      org.opencontainers.image.description="Stage (services.stage) and decoder (services.decoder) without a GPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
