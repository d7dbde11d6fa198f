#!/bin/sh
# Makes target/tools/NAME of packages of the npm registry, for tests; one that is complete is reused. Prints its directory.
#     npm-tool.sh NAME PACKAGE@VERSION… [-- COMMAND…]
# COMMAND runs in the new directory before it counts as complete. Needs Node 20 or newer with npm, and reach of a registry the first time;
# no root.
set -eu
cd "$(dirname "$0")/.."
name=$1
shift
tools=${CARGO_TARGET_DIR:-target}/tools
directory=$tools/$name
wanted=$*
packages=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    packages="$packages $1"
    shift
done
[ $# -eq 0 ] || shift
mkdir -p "$tools"
# Two tests may come here at once: one makes it, the other waits.
exec 9>"$tools/$name.lock"
flock 9
if [ "$(cat "$directory/complete" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$directory"
    mkdir "$directory"
    # Node has certificates of its own: behind a proxy that signs anew, the system's are needed as well.
    system=/etc/ssl/certs/ca-certificates.crt
    [ -n "${NODE_EXTRA_CA_CERTS-}" ] || [ ! -r "$system" ] || export NODE_EXTRA_CA_CERTS="$system"
    # A registry that can't be reached is said after a while, not waited for without end. Names and versions hold no spaces.
    # shellcheck disable=SC2086
    timeout 300 npm install --loglevel=error --no-audit --no-fund --no-progress --fetch-retries=1 --prefix "$directory" $packages >&2 || {
        echo "npm-tool.sh: npm could not install$packages: see above; a registry has to be in reach, and its certificate trusted (NODE_EXTRA_CA_CERTS)" >&2
        exit 1
    }
    [ $# -eq 0 ] || (cd "$directory" && "$@" >&2)
    echo "$wanted" >"$directory/complete"
fi
cd "$directory"
pwd
