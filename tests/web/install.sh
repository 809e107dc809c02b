#!/usr/bin/env bash
# Installs what drives the browser, as package-lock.json names it, beside this file; does nothing if it is there.
set -euo pipefail
cd "$(dirname "$0")"
exec 9<package-lock.json
flock 9
if ! cmp -s package-lock.json node_modules/.installed; then
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2
    cp package-lock.json node_modules/.installed
fi
