#!/usr/bin/env bash
# Makes proto/ as it is now the contract that `make lint` holds later changes
# against. Run it when a change to proto/ is meant, and commit the image with it.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
node_modules/.bin/buf build --exclude-source-info -o proto/golden.binpb
echo "proto/golden.binpb is the contract now"
