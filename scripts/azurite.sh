#!/bin/sh
# Makes target/tools/azurite, Microsoft's storage emulator for the tests of object storage. Prints the path of its blob service, a Node
# program. Needs what npm-tool.sh needs.
set -eu
directory=$("$(dirname "$0")/npm-tool.sh" azurite azurite@3.35.0)
echo "$directory/node_modules/azurite/dist/src/blob/main.js"
