# Debian's Redis in place of the official image, which has the same folder, user and command.
ARG BASE
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends redis-server && apt-get clean && \
    install -d -o redis -g redis /data
WORKDIR /data
