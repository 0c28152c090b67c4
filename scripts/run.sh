#!/usr/bin/env bash
# From a fresh checkout to a program in a sandbox.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

"$ROOT/scripts/setup.sh" run
"$ROOT/scripts/server.sh" start

echo
echo "examples/quickstart.py:"
if [ "$CLIENT_CONFIG" != "$DEFAULT_CLIENT_CONFIG" ] || [ "$LISTEN" != 127.0.0.1:3000 ]; then
    eval "$("$ROOT/scripts/env.sh")"
fi
"$PYTHON" "$ROOT/examples/quickstart.py"

cat <<END
Nullspace serves at $URL
  connect  eval "\$(make -s env)"; python3 then imports nullspace and finds the server
  key      $CLIENT_CONFIG
  log      $LOG
  data     $DATA
  stop     make stop (sandboxes go on), make clean-host (removes them as well)
END
