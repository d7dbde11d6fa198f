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
    npm install --silent --no-audit --no-fund --prefix "$azurite" "azurite@$version" >&2
    echo "$version" >"$azurite/complete"
fi
program=$azurite/node_modules/azurite/dist/src/blob/main.js
case $program in
/*) echo "$program" ;;
*) echo "$PWD/$program" ;;
esac
