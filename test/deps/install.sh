#!/usr/bin/env bash
# Usage: test/deps/install.sh servers|toolchain
#
# Installs what the tests use, on Debian and its relatives:
#   servers    the real servers and clients of the end-to-end tests
#   toolchain  what `make test` needs beside Go: make, and gcc for -race
#
# It asks nothing, does nothing when all is there, and starts no service: the
# tests start servers of their own, on loopback and with data of their own.
set -euo pipefail

# PROGRAM:PACKAGE; a program may be a glob, for those outside PATH.
servers=(
    mariadbd:mariadb-server
    mariadb-install-db:mariadb-server
    mariadb:mariadb-client
    mariadb-dump:mariadb-client
    '/usr/lib/postgresql/*/bin/postgres:postgresql'
    psql:postgresql-client
    redis-server:redis-server
    redis-cli:redis-tools
    nginx:nginx
    sshd:openssh-server
    ssh:openssh-client
    scp:openssh-client
    curl:curl
)
toolchain=(
    make:make
    gcc:gcc
    /usr/include/stdlib.h:libc6-dev
    git:git
    /etc/ssl/certs/ca-certificates.crt:ca-certificates
)

# have tells whether a program, by name or glob, is there.
have() {
    case $1 in
        /*) compgen -G "$1" >/dev/null ;;
        *) PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1" >/dev/null ;;
    esac
}

# missing prints the packages of the programs that are not there, each once.
missing() {
    local pair
    for pair in "$@"; do
        have "${pair%:*}" || echo "${pair##*:}"
    done | sort -u
}

# hold_services keeps packages from starting their services while this script
# runs. What was there before is put back at the end.
hold_services() {
    local policy=/usr/sbin/policy-rc.d
    backup=$(mktemp -d)
    [ ! -e "$policy" ] || mv "$policy" "$backup/"
    trap 'rm -f /usr/sbin/policy-rc.d; mv "$backup"/* /usr/sbin/ 2>/dev/null || true; rmdir "$backup"' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

case ${1-} in
    servers) wanted=("${servers[@]}") ;;
    toolchain) wanted=("${toolchain[@]}") ;;
    *)
        sed -n '2p' "$0" | cut -c3- >&2
        exit 2
        ;;
esac

mapfile -t packages < <(missing "${wanted[@]}")
if [ ${#packages[@]} -eq 0 ]; then
    echo "test/deps: $1: all there"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "test/deps: no apt-get here: install what Debian calls ${packages[*]}" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "test/deps: run this as root, it installs ${packages[*]}" >&2
        exit 1
    fi
    exec sudo -- bash "$0" "$@"
fi

echo "test/deps: $1: installing ${packages[*]}"
hold_services
export DEBIAN_FRONTEND=noninteractive
apt-get update -q -o Acquire::Retries=3
apt-get install -q -y --no-install-recommends -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "${packages[@]}"

mapfile -t packages < <(missing "${wanted[@]}")
if [ ${#packages[@]} -ne 0 ]; then
    echo "test/deps: still missing after the install: ${packages[*]}" >&2
    exit 1
fi
