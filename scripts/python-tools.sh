#!/bin/sh
# Makes target/tools/py, the Python environment of the tests, from tests/oracle/requirements.txt; one that is complete is reused.
# Prints the path of its interpreter. Needs Python 3.11 or newer with venv, and reach of a package index the first time.
set -eu
cd "$(dirname "$0")/.."
requirements=tests/oracle/requirements.txt
tools=${CARGO_TARGET_DIR:-target}/tools
python=$tools/py/bin/python
mkdir -p "$tools"
# Two test binaries may come here at once: one makes it, the other waits.
exec 9>"$tools/py.lock"
flock 9
if ! cmp -s "$requirements" "$tools/py/complete"; then
    rm -rf "$tools/py"
    python3 -m venv "$tools/py" >&2
    "$python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" >&2
    cp "$requirements" "$tools/py/complete"
fi
case $python in
/*) echo "$python" ;;
*) echo "$PWD/$python" ;;
esac
