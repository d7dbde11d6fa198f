#!/bin/sh
# Makes target/tools/azurite, Microsoft's storage emulator for the tests of object storage; one that is complete is reused. Prints the
# path of its blob service, a Node program. Needs Node 20 or newer with npm, and reach of a package registry the first time.
set -eu
cd "$(dirname "$0")/.."
version=3.35.0
tools=${CARGO_TARGET_DIR:-target}/tools
azurite=$tools/azurite
mkdir -p "$tools"
# Two test binaries may come here at once: one makes it, the other waits.
exec 9>"$tools/azurite.lock"
flock 9
if [ "$(cat "$azurite/complete" 2>/dev/null)" != "$version" ]; then
    rm -rf "$azurite"
    mkdir "$azurite"
    # Node has certificates of its own: behind a proxy that signs anew, the system's are needed as well.
    system=/etc/ssl/certs/ca-certificates.crt
    [ -n "${NODE_EXTRA_CA_CERTS-}" ] || [ ! -r "$system" ] || export NODE_EXTRA_CA_CERTS="$system"
    # A registry that can't be reached is said after a while, not waited for without end.
    timeout 300 npm install --loglevel=error --no-audit --no-fund --no-progress --fetch-retries=1 --prefix "$azurite" "azurite@$version" >&2 || {
        echo "azurite.sh: npm could not install azurite@$version: see above; a registry has to be in reach, and its certificate trusted (NODE_EXTRA_CA_CERTS)" >&2
        exit 1
    }
    echo "$version" >"$azurite/complete"
fi
program=$azurite/node_modules/azurite/dist/src/blob/main.js
case $program in
/*) echo "$program" ;;
*) echo "$PWD/$program" ;;
esac
