# The broker: docker build -f Dockerfile.ws -t hlchat-ws .
# How to run it: docs/containers.md
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
WORKDIR /src
COPY shared/scripts/deps.sh shared/scripts/
RUN shared/scripts/deps.sh build
COPY . .
# And by name the packages of the libraries that it is linked to, in whatever Debian this is.
RUN make -j"$(nproc)" CFLAGS=-O2 LDFLAGS=-s build/ws-broker && \
    readelf -d build/ws-broker | sed -n 's|.*(NEEDED).*\[\(.*\)\]|*/\1|p' | \
    xargs dpkg -S | cut -d : -f 1 >build/packages

FROM ${BASE}
COPY --from=build /src/build/packages /tmp/
# libwebsockets opens its libuv plugin by itself; ca-certificates: the account service and key sets
# are asked by https; curl: for the health check.
RUN apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        $(cat /tmp/packages) libwebsockets-evlib-uv ca-certificates curl && \
    apt-get clean && rm -rf /tmp/packages /var/lib/apt/lists/*
COPY --from=build /src/build/ws-broker /usr/local/bin/

ARG VERSION=1.1.0
LABEL org.opencontainers.image.title="hlchat ws-broker" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
# LISTEN is for HAProxy, OPS_LISTEN for metrics: neither is for the public.
ENV LISTEN=0.0.0.0:9001 OPS_LISTEN=0.0.0.0:9101
EXPOSE 9001 9101
USER 10001:10001
STOPSIGNAL SIGTERM
# It lives; also while it drains.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD case $LISTEN in \
        unix:*) set -- --unix-socket "${LISTEN#unix:}" http://broker/healthz ;; \
        *) set -- "http://$LISTEN/healthz" ;; \
        esac; curl --fail --silent --show-error --globoff --noproxy '*' --output /dev/null "$@"
ENTRYPOINT ["ws-broker"]
