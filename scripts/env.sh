#!/usr/bin/env bash
# Prints the settings of a shell that has the command line of this checkout, and
# whose python3 imports its package; both find the server of this host.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

[ -x "$PYTHON" ] || die "nothing is set up yet: make setup"
# shellcheck disable=SC2016
printf 'export PATH=%q:"$PATH"\n' "$ROOT/.venv/bin:$(dirname "$CLI")"
# shellcheck disable=SC2016
printf 'export PYTHONPATH=%q"${PYTHONPATH:+:$PYTHONPATH}"\n' "$ROOT/clients/python"
printf 'export NULLSPACE_API_URL=%q\n' "$URL"
[ -e "$CLIENT_CONFIG" ] || die "there is no API key yet: make start"
"$PYTHON" - "$CLIENT_CONFIG" <<'END'
import json, shlex, sys

with open(sys.argv[1]) as file:
    print("export NULLSPACE_API_KEY=" + shlex.quote(json.load(file)["api_key"]))
END
