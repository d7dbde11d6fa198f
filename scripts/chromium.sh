#!/bin/sh
# Makes target/tools/chromium, a headless Chromium and what drives it (playwright-core) for the tests of the report. Prints its directory.
# Needs what npm-tool.sh needs. The browser that npm has is for x86-64 Linux: elsewhere name an installed one in CHROMIUM.
set -eu
# It is unpacked here, once, and not by whoever opens it: one that opens it meanwhile would find the half of it.
unpack='import c from "@sparticuz/chromium"; await (c.default ?? c).executablePath();'
[ -z "${CHROMIUM-}" ] || unpack=
exec "$(dirname "$0")/npm-tool.sh" chromium playwright-core@1.65.1 @sparticuz/chromium@147.0.0 -- \
    sh -c 'mkdir unpacked && TMPDIR=$PWD/unpacked AWS_EXECUTION_ENV=AWS_Lambda_nodejs20.x node --input-type=module -e "$1"' unpack "$unpack"
