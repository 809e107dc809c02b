#!/usr/bin/env bash
# Installs what is missing on Debian or Ubuntu, by package name; does nothing, and says nothing, if nothing is.
#
#   ops/install-test-deps.sh              what `make test` needs
#   ops/install-test-deps.sh cc rsync     only what brings these commands
#
# Works as root, or through sudo. Freshly installed services are not started: tests start their own.
set -euo pipefail

# command  packages that bring it; npm:NAME is one of npm's
packages_of() {
    case $1 in
        bindfs) echo bindfs ;;
        carbon-cache) echo graphite-carbon ;;
        cc) echo gcc libc6-dev ;;
        chromium) echo chromium fonts-dejavu-core ;;
        curl) echo curl ca-certificates ;;
        getfattr) echo attr ;;
        # A test reads YAML.
        graphite-manage) echo graphite-web python3-yaml ;;
        ip) echo iproute2 ;;
        # A library, for a test that makes bindings anew.
        libclang) echo libclang1 ;;
        memcached) echo memcached ;;
        mkfs.xfs) echo xfsprogs ;;
        node) echo nodejs ;;
        npm) echo npm ;;
        openssl) echo openssl ;;
        prometheus | promtool) echo prometheus ;;
        python3) echo python3 ;;
        rabbitmq-server) echo rabbitmq-server ;;
        rsync) echo rsync ;;
        script) echo bsdutils ;;
        setfacl) echo acl ;;
        shellcheck) echo shellcheck ;;
        statsd) echo npm:statsd@0.9.0 ;;
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
    set -- bindfs carbon-cache cc chromium curl getfattr graphite-manage ip libclang memcached mkfs.xfs node npm openssl prometheus \
        promtool python3 rabbitmq-server rsync script setfacl shellcheck statsd strace systemd-analyze /usr/bin/time
fi

is_there() {
    case $1 in
        libclang) [ -n "${LIBCLANG_PATH:-}" ] || /sbin/ldconfig -p | grep -qE '[[:space:]]libclang(-[0-9]+)?\.so' ;;
        *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

missing=()
from_npm=()
for command in "$@"; do
    packages=$(packages_of "$command")
    if ! is_there "$command"; then
        read -ra words <<<"$packages"
        case $packages in
            npm:*) from_npm+=("${words[@]#npm:}") ;;
            *) missing+=("${words[@]}") ;;
        esac
    fi
done
[ ${#missing[@]} -gt 0 ] || [ ${#from_npm[@]} -gt 0 ] || exit 0
if [ ${#from_npm[@]} -gt 0 ] && ! command -v npm >/dev/null; then
    missing+=(nodejs npm)
fi

by_hand="install by hand: ${missing[*]} ${from_npm[*]}"
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

echo "installing ${missing[*]} ${from_npm[*]}"
log=$(mktemp)
apt_get() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1
}
install_all() {
    if [ ${#missing[@]} -gt 0 ]; then
        apt_get update && apt_get install --yes --no-install-recommends "${missing[@]}" || return
    fi
    if [ ${#from_npm[@]} -gt 0 ]; then
        "${as_root[@]}" npm install --global --ignore-scripts --omit=optional --no-fund --no-audit "${from_npm[@]}" >>"$log" 2>&1
    fi
}
if ! install_all; then
    tail -n 30 "$log" >&2
    rm -f "$log"
    fail "that failed; $by_hand"
fi
rm -f "$log"
