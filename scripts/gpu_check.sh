#!/usr/bin/env bash
# Check Tunemesh on a machine with an NVIDIA GPU, in at most 8 minutes; writes one JSON file.
#
#   scripts/gpu_check.sh [--wheels FOLDER] [--out FILE] [--seconds N] [--only PART ...]
#
# With --wheels nothing is fetched: Python packages are installed from the wheels in FOLDER, RabbitMQ from its
# *.deb files. A wheel may lie there in parts (NAME.whl.part1, NAME.whl.part2). Make such a folder with
#
#   scripts/gpu_check.sh --fetch FOLDER [PYTHON [PACKAGE ...]]
#
# where PYTHON is the version there (3.12), and PACKAGEs are those that the machine lacks (all). `rabbitmq` among
# them stands for the *.deb files. The folder may be carried there in several pieces.
#
# Without --wheels it uses what `make setup` has installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly PART=52000000 # bytes of a part of a wheel
readonly BUILD=build/gpu_check

say() { printf 'gpu_check: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

fetch() {
    local folder=$1 python=${2:-3.12} wheel list
    local -a packages=()
    list=$(mktemp)
    mkdir -p "$folder"
    if [ "$#" -gt 2 ]; then
        printf '%s\n' "${@:3}" | sed 's/$/==/' | grep -i -F -f - constraints.txt >"$list" || true
    else
        cp constraints.txt "$list"
    fi
    [ ! -s "$list" ] || python3 -m pip download --quiet --no-deps --only-binary=:all: \
        --python-version "$python" --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
        --platform any -r "$list" -d "$folder"
    rm "$list"
    for wheel in "$folder"/*.whl; do
        if [ -e "$wheel" ] && [ "$(stat -c %s "$wheel")" -gt "$PART" ]; then
            split -b "$PART" -a 1 --numeric-suffixes=1 "$wheel" "$wheel.part"
            rm "$wheel"
        fi
    done
    if [ "$#" -le 2 ] || [[ " ${*:3} " == *" rabbitmq "* ]]; then
        mapfile -t packages < <(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts \
            --no-breaks --no-replaces --no-enhances rabbitmq-server |
            grep -E '^(erlang|rabbitmq|socat|libsctp)' | sort -u)
        (cd "$folder" && apt-get download -qq "${packages[@]}")
    fi
    say "$folder: $(du -sh "$folder" | cut -f 1)"
}

install_wheels() {
    local folder=$1 first
    for first in "$folder"/*.part1; do
        [ -e "$first" ] || continue
        cat "${first%1}"* >"${first%.part1}"
    done
    python3 -m venv --clear --without-pip "$BUILD/venv"
    python3 -m pip --python "$BUILD/venv/bin/python" install --quiet --no-index --no-deps --no-compile \
        "$folder"/*.whl
    # Behind the wheels: PyTorch and ONNX Runtime are those that the machine has.
    python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$BUILD/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/machine.pth"
    if ! compgen -G '/usr/lib/rabbitmq/bin/rabbitmq-server' >/dev/null; then
        for first in "$folder"/*.deb; do
            [ -e "$first" ] || fail "RabbitMQ is not installed, and there is no *.deb of it in $folder"
            dpkg -x "$first" / || fail "cannot unpack $first; this needs root"
        done
    fi
}

wheels='' arguments=()
while [ "$#" -gt 0 ]; do
    case $1 in
        --fetch) fetch "${@:2}"; exit 0 ;;
        --wheels) wheels=${2:?--wheels needs a folder}; shift 2 ;;
        --out | --seconds) arguments+=("$1" "${2:?$1 needs a value}"); shift 2 ;;
        --only) arguments+=("$@"); shift "$#" ;;
        *) fail "unknown argument $1; see the head of scripts/gpu_check.sh" ;;
    esac
done

mkdir -p "$BUILD"
if [ -n "$wheels" ]; then
    [ -d "$wheels" ] || fail "there is no folder $wheels"
    install_wheels "$wheels"
    # As an installed package: its engines are entry points. setuptools is the machine's.
    python3 -m pip --python "$BUILD/venv/bin/python" install --quiet --no-index --no-deps \
        --no-build-isolation --editable .
    python=$BUILD/venv/bin/python
elif [ -x .venv/bin/python ]; then
    python=.venv/bin/python
else
    fail "nothing is installed: run make setup, or bring a folder of wheels (--wheels)"
fi
exec "$python" -m benchmarks.gpu_check "${arguments[@]}"
