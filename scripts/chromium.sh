#!/bin/sh
# Makes target/tools/chromium, a headless Chromium and what drives it (playwright-core) for the tests of the report; one that is complete is
# reused. Prints its directory. Needs Node 20 or newer with npm, and reach of a package registry the first time; no apt, no root. The browser
# that npm has is for x86-64 Linux: elsewhere name an installed one in CHROMIUM.
set -eu
cd "$(dirname "$0")/.."
browser=147.0.0
driver=1.65.1
tools=${CARGO_TARGET_DIR:-target}/tools
directory=$tools/chromium
version="$browser $driver"
mkdir -p "$tools"
# Two test binaries may come here at once: one makes it, the other waits.
exec 9>"$tools/chromium.lock"
flock 9
if [ "$(cat "$directory/complete" 2>/dev/null)" != "$version" ]; then
    rm -rf "$directory"
    mkdir "$directory"
    # Node has certificates of its own: behind a proxy that signs anew, the system's are needed as well.
    system=/etc/ssl/certs/ca-certificates.crt
    [ -n "${NODE_EXTRA_CA_CERTS-}" ] || [ ! -r "$system" ] || export NODE_EXTRA_CA_CERTS="$system"
    # A registry that can't be reached is said after a while, not waited for without end.
    timeout 300 npm install --loglevel=error --no-audit --no-fund --no-progress --fetch-retries=1 --prefix "$directory" \
        "playwright-core@$driver" "@sparticuz/chromium@$browser" >&2 || {
        echo "chromium.sh: npm could not install playwright-core@$driver and @sparticuz/chromium@$browser: see above; a registry has to be in reach, and its certificate trusted (NODE_EXTRA_CA_CERTS)" >&2
        exit 1
    }
    echo "$version" >"$directory/complete"
fi
cd "$directory"
pwd
