#!/usr/bin/env bash
# Installs what is missing on Debian or Ubuntu, by package name; does nothing, and says nothing, if nothing is.
#
#   ops/install-test-deps.sh              what `make test` needs
#   ops/install-test-deps.sh cc rsync     only what brings these commands
#
# Works as root, or through sudo. Freshly installed services are not started: tests start their own.
set -euo pipefail

# command  packages that bring it
packages_of() {
    case $1 in
        bindfs) echo bindfs ;;
        carbon-cache) echo graphite-carbon ;;
        cc) echo gcc libc6-dev ;;
        curl) echo curl ca-certificates ;;
        getfattr) echo attr ;;
        # A test reads YAML.
        graphite-manage) echo graphite-web python3-yaml ;;
        ip) echo iproute2 ;;
        memcached) echo memcached ;;
        openssl) echo openssl ;;
        promtool) echo prometheus ;;
        python3) echo python3 ;;
        rabbitmq-server) echo rabbitmq-server ;;
        rsync) echo rsync ;;
        script) echo bsdutils ;;
        setfacl) echo acl ;;
        shellcheck) echo shellcheck ;;
        strace) echo strace ;;
        systemd-analyze) echo systemd ;;
        /usr/bin/time) echo time ;;
        *) fail "no package is known that brings '$1'" ;;
    esac
}

fail() {
    echo "install-test-deps: $*" >&2
    exit 1
}

if [ $# -eq 0 ]; then
    set -- bindfs carbon-cache cc curl getfattr graphite-manage ip memcached openssl promtool python3 rabbitmq-server rsync script \
        setfacl shellcheck strace systemd-analyze /usr/bin/time
fi

missing=()
for command in "$@"; do
    packages=$(packages_of "$command")
    if ! PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null; then
        read -ra words <<<"$packages"
        missing+=("${words[@]}")
    fi
done
[ ${#missing[@]} -gt 0 ] || exit 0

by_hand="install by hand: ${missing[*]}"
command -v apt-get >/dev/null || fail "there is no apt-get here; $by_hand"
as_root=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "neither root nor sudo; $by_hand"
    as_root=(sudo)
fi

# Debian asks this file whether a new service may start. One that is there already is left to decide.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    "${as_root[@]}" chmod 755 "$policy"
fi

echo "installing ${missing[*]}"
log=$(mktemp)
apt_get() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1
}
if ! { apt_get update && apt_get install --yes --no-install-recommends "${missing[@]}"; }; then
    tail -n 30 "$log" >&2
    rm -f "$log"
    fail "apt-get failed; $by_hand"
fi
rm -f "$log"
