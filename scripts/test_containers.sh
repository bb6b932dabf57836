#!/usr/bin/env bash
# Build the image, start the compose file and run tests/containers, in a Docker engine of this script's own.
# Nothing is pulled: the base images are made with debootstrap, so that it works where only Debian's and Python's
# packages can be reached. The host's CA certificates and apt's options are copied into them; PIP_INDEX_URL and
# DEBIAN_MIRROR are taken from the environment. Images stay in build/containers for the next run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The names that Dockerfile and compose file ask for. They exist in the private engine only.
DEBIAN_IMAGE=$(sed -n 's/^ARG BASE=//p' docker/Dockerfile)
RABBITMQ_IMAGE=$(sed -n 's/^ *image: \(rabbitmq:.*\)$/\1/p' docker/compose.yaml)
readonly DEBIAN_IMAGE RABBITMQ_IMAGE
readonly DATA=$PWD/build/containers
readonly CA=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}

say() { printf 'test-containers: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

[ "$(id -u)" -eq 0 ] || fail "needs root: it starts a Docker engine of its own"
missing=()
for need in dockerd:docker.io docker:docker.io docker-compose:docker-compose debootstrap:debootstrap; do
    command -v "${need%:*}" >/dev/null || missing+=("${need#*:}")
done
[ "${#missing[@]}" -eq 0 ] || fail "missing; install with: apt-get install ${missing[*]}"

# Sockets have short paths.
RUN=$(mktemp -d)
readonly RUN
export DOCKER_HOST=unix://$RUN/docker.sock
# The classic builder: it reads no .dockerignore but the one in the root.
export DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0
export TESTCONTAINERS_RYUK_DISABLED=true

stop() {
    if [ -s "$RUN/docker.pid" ]; then
        docker ps --quiet | xargs --no-run-if-empty docker kill >/dev/null || true
        kill "$(cat "$RUN/docker.pid")" || true
        timeout 60 tail --pid="$(cat "$RUN/docker.pid")" -f /dev/null || true
    fi
    umount "$RUN/exec/netns/default" 2>/dev/null || true
    rm -rf "$RUN"
}

start_engine() {
    mkdir -p "$DATA/docker"
    dockerd --data-root "$DATA/docker" --exec-root "$RUN/exec" --host "$DOCKER_HOST" --pidfile "$RUN/docker.pid" \
        >"$DATA/dockerd.log" 2>&1 &
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && return
        sleep 1
    done
    tail -n 5 "$DATA/dockerd.log" >&2
    fail "the Docker engine does not answer after 60 s, see $DATA/dockerd.log"
}

# import_debian IMAGE SUITE: a minimal Debian with what it takes to install more behind this host's proxy. Without
# what Debian's own slim images leave out.
import_debian() {
    local image=$1 suite=$2 root
    say "making $image with debootstrap"
    root=$(mktemp -d)
    timeout 600 debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" \
        ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$DATA/debootstrap-$suite.log" 2>&1 ||
        { rm -rf "$root"; fail "debootstrap failed, see $DATA/debootstrap-$suite.log"; }
    cp "$CA" "$root/etc/ssl/certs/ca-certificates.crt"
    apt-config dump --no-empty --format '%F "%v";%n' Acquire >"$root/etc/apt/apt.conf.d/90host"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
    printf 'path-exclude /usr/share/%s/*\n' doc info locale man lintian >"$root/etc/dpkg/dpkg.cfg.d/slim"
    for folder in doc info locale man lintian; do rm -rf "$root/usr/share/$folder"/*; done
    # Installing a service does not start it.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    tar -C "$root" -c . | docker import \
        --change "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt" \
        ${PIP_INDEX_URL:+--change "ENV PIP_INDEX_URL=$PIP_INDEX_URL"} - "$image" >/dev/null
    rm -rf "$root"
}

exists() { docker image inspect "$1" >/dev/null 2>&1; }

make_base_images() {
    exists "$DEBIAN_IMAGE" || import_debian "$DEBIAN_IMAGE" bookworm
    exists "$RABBITMQ_IMAGE" && return
    exists trixie || import_debian trixie trixie
    # Runs as its user from the start; Debian's wrapper in /usr/sbin would call su.
    timeout 900 docker build --quiet --network host --tag "$RABBITMQ_IMAGE" - <<'DOCKERFILE'
FROM trixie
RUN apt-get update && apt-get install --yes --no-install-recommends adduser rabbitmq-server
RUN rabbitmq-plugins enable --offline rabbitmq_management
USER rabbitmq
ENV PATH=/usr/lib/rabbitmq/bin:/usr/local/bin:/usr/bin:/bin RABBITMQ_LOGS=-
VOLUME /var/lib/rabbitmq
CMD ["rabbitmq-server"]
DOCKERFILE
}

trap stop EXIT
mkdir -p "$DATA"
start_engine
make_base_images
status=0
timeout 1800 .venv/bin/python -m pytest tests/containers || status=1
# The broker's rules on RabbitMQ 4, beside the version that is installed here.
timeout 600 .venv/bin/python -m pytest --rabbitmq-4 \
    tests/integration/test_transport.py tests/integration/test_roles.py || status=1
exit "$status"
