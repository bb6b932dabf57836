#!/usr/bin/env bash
# Install what Tunemesh needs and this machine lacks: Debian packages, and .venv with the pinned versions of
# constraints.txt. A second run finds everything in place and installs nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv STAMP=.venv/installed
readonly POLICY=/usr/sbin/policy-rc.d

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

# The first Python that is new enough. The oldest supported one comes before newer ones, for it is tested most.
# One for which there are wheels of what constraints.txt pins, before any that is newer.
find_python() {
    local newest name
    for newest in 13 99; do
        for name in python3 python3.11 python3.12 python3.13 /usr/bin/python3; do
            if "$name" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $newest))" >/dev/null 2>&1; then
                command -v "$name"
                return
            fi
        done
    done
}

# Debian packages that are missing, by what is needed of them rather than by name: RabbitMQ and binutils may
# well have been installed in another way. broker_config/node.py looks for the broker in the same places.
missing_packages() {
    local python
    compgen -G '/usr/lib/rabbitmq/bin/rabbitmq-server' >/dev/null ||
        compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server' >/dev/null ||
        echo rabbitmq-server
    # Kernels are linked with ld itself; a compiler is not needed.
    command -v ld >/dev/null || command -v gcc >/dev/null || echo binutils
    # Tests start one of their own; without it they are skipped, but not where everything is tested.
    [ -z "${CI:-}" ] || command -v postgres >/dev/null ||
        compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || echo postgresql
    python=$(find_python)
    if [ -z "$python" ]; then
        # A python3 that is too old would only be installed again.
        command -v python3 >/dev/null || echo python3 python3-venv
    elif ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo python3-venv
    fi
}

# Install Debian packages without starting the services that come with them: Tunemesh runs a private node.
install_packages() {
    local -a as_root=() packages=("$@")
    local command="apt-get install --no-install-recommends ${packages[*]}"
    command -v apt-get >/dev/null ||
        fail "missing: ${packages[*]} (Debian's names); install them with this system's package manager"
    if [ "$(id -u)" -ne 0 ]; then
        if ! { command -v sudo && sudo -n true; } >/dev/null 2>&1; then
            fail "missing: ${packages[*]}; install with: sudo $command"
        fi
        as_root=(sudo -n)
    fi
    say "installing ${packages[*]}"
    if [ ! -e "$POLICY" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$POLICY" >/dev/null
        # shellcheck disable=SC2064 # as_root is gone by the time the trap runs
        trap "${as_root[*]} rm -f $POLICY" EXIT
        "${as_root[@]}" chmod 755 "$POLICY"
    fi
    "${as_root[@]}" apt-get update -qq </dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >&2 ||
        fail "apt-get failed; try: $command"
    if [[ " ${packages[*]} " == *" rabbitmq-server "* ]] && [ -d /run/systemd/system ]; then
        "${as_root[@]}" systemctl disable --quiet rabbitmq-server >&2 || true
    fi
}

# What the environment depends on. The folder is part of it: a virtual environment cannot be moved.
fingerprint() {
    { "$1" -c 'import sys; print(sys.version, sys.base_prefix)'; pwd; cat pyproject.toml constraints.txt; } |
        sha256sum | cut -d ' ' -f 1
}

# Two runs at once, say of make test in two terminals, install one after the other.
exec 9<scripts/setup.sh
flock -w 900 9 || fail "another setup has been running for 15 minutes; end it and try again"

mapfile -t missing < <(missing_packages | tr ' ' '\n')
[ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"

python=$(find_python)
[ -n "$python" ] || fail "needs Python 3.11 or newer; python3 here is $(python3 -V 2>&1 || true)"

wanted=$(fingerprint "$python")
if [ "$(cat "$STAMP" 2>/dev/null || true)" = "$wanted" ] && "$VENV/bin/python" -c '' 2>/dev/null; then
    exit 0
fi
# Not needed: an allocator with which workers compile and propose faster (stage_workers/sandbox/allocator.py); what
# holds in models, compilers and kernels, where Landlock alone would (stage_workers/sandbox/cage.py); and a compiler,
# with which kernels of C are tuned beside MetaSchedule's, and often win (docs/engines.md).
optional=()
compgen -G '/usr/lib/*/libjemalloc.so.2' >/dev/null || optional+=(libjemalloc2)
command -v bwrap >/dev/null || optional+=(bubblewrap)
command -v gcc >/dev/null || command -v clang >/dev/null || optional+=(gcc libc6-dev)
[ "${#optional[@]}" -eq 0 ] || (install_packages "${optional[@]}") ||
    say "going on without ${optional[*]}: slower, with Landlock where there is, or with one engine"
# Not needed either: what the clients in other languages are tested with. Without it those tests are skipped.
if [ -n "${CI:-}" ]; then
    # The browser that looks at the dashboard.
    command -v chromium >/dev/null || command -v google-chrome >/dev/null ||
        (install_packages chromium) || say "going on without a browser"
    ! command -v javac >/dev/null || [ -e /usr/share/java/msgpack-core.jar ] ||
        (install_packages librabbitmq-client-java libmsgpack-java) || say "going on without the client in Java"
    ! command -v npm >/dev/null || npm ci --silent --prefix examples/clients/node </dev/null >&2 ||
        say "going on without the client in JavaScript"
fi
say "installing Python packages into $VENV with $("$python" -V)"
"$python" -m venv --clear "$VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    -c constraints.txt -e '.[dev]' </dev/null >&2 ||
    fail "pip could not install the Python packages, see above; run this again once that is mended"
# Last, so that an interrupted run is done again.
echo "$wanted" >"$STAMP"
say "ready"
