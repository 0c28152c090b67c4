# Shared by the scripts beside it.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DATA=${NULLSPACE_DATA_DIR:-/var/lib/nullspace}
ASSETS=${NULLSPACE_ASSETS_DIR:-$DATA/assets}
LISTEN=${NULLSPACE_LISTEN:-127.0.0.1:3000}
URL=http://$LISTEN
SERVER=$ROOT/target/release/nullspaced
CLI=$ROOT/target/release/nullspace
PYTHON=$ROOT/.venv/bin/python3
PID_FILE=$DATA/nullspaced.pid
LOG=$DATA/log/nullspaced.log
DEFAULT_CLIENT_CONFIG=${XDG_CONFIG_HOME:-${HOME:-/root}/.config}/nullspace/config.json

# Clients find the key of the default server by themselves; that of another one
# lies in its data directory.
if [ "$DATA" = /var/lib/nullspace ]; then
    CLIENT_CONFIG=$DEFAULT_CLIENT_CONFIG
else
    CLIENT_CONFIG=$DATA/client.json
fi

die() {
    echo "nullspace: $*" >&2
    exit 1
}

# Milliseconds since some fixed moment.
now() {
    echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

# "12.3 s" since a moment that `now` gave.
since() {
    local milliseconds=$(($(now) - $1))
    echo "$((milliseconds / 1000)).$((milliseconds % 1000 / 100)) s"
}

# Whether version $1 is at least version $2.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Waits until a process has ended, at most $2 seconds.
wait_for_end() {
    timeout "$2" tail --pid="$1" -s 0.1 -f /dev/null
}

# Waits until a server answers, at most $3 seconds, while process $2 runs.
wait_for_health() {
    local end=$(($(now) + $3 * 1000))
    until "$SERVER" health --url "$1" >/dev/null 2>&1; do
        kill -0 "$2" 2>/dev/null || return 1
        [ "$(now)" -lt "$end" ] || return 1
        sleep 0.05
    done
}
