#!/usr/bin/env bash
# Everything that must hold, against a server of its own beside any other:
# SCALE=small, or SCALE=full for the counts that the promises name. With `soak`
# only the soak, for SOAK seconds (an hour).
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

export SCALE=${SCALE:-small}
case $SCALE in small | full) ;; *) die "SCALE is small or full, not '$SCALE'" ;; esac
WHAT=${1:-all}
case $WHAT in
    all) export SOAK=${SOAK:-} ;;
    soak) export SOAK=${SOAK:-3600} ;;
    *) die "tests are all or soak, not '$WHAT'" ;;
esac
# Seconds until a phase is taken to hang.
PHASE_LIMIT=$((2400 + ${SOAK:-0}))

WORK=$(mktemp -d /tmp/nullspace-test-XXXXXX)
RESULTS=$WORK/results
SERVER_DATA=$WORK/server
SERVER_LOG=$WORK/server.log
SERVER_PID=
STARTED=$(now)

# Runs a phase, prints its time, and keeps its output for the count.
phase() {
    local name=$1 started
    shift
    started=$(now)
    echo "== $name"
    if ! timeout --foreground "$PHASE_LIMIT" "$@" 2>&1 | tee -a "$RESULTS"; then
        echo "== $name: failed after $(since "$started")"
        exit 1
    fi
    echo "== $name: $(since "$started")"
}

start_server() {
    mkdir -p "$SERVER_DATA"
    setsid "$SERVER" serve --data-dir "$SERVER_DATA" --assets-dir "$ASSETS" --listen 127.0.0.1:0 \
        --client-config "$WORK/client.json" </dev/null >"$SERVER_LOG" 2>&1 &
    SERVER_PID=$!
    local end=$(($(now) + 30000))
    until [ -s "$SERVER_DATA/listen.addr" ]; do
        { kill -0 "$SERVER_PID" 2>/dev/null && [ "$(now)" -lt "$end" ]; } || server_failed
        sleep 0.05
    done
    NULLSPACE_API_URL=http://$(cat "$SERVER_DATA/listen.addr")
    wait_for_health "$NULLSPACE_API_URL" "$SERVER_PID" 30 || server_failed
    NULLSPACE_API_KEY=$("$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["api_key"])' "$WORK/client.json")
    export NULLSPACE_API_URL NULLSPACE_API_KEY
}

server_failed() {
    tail -n 30 "$SERVER_LOG" >&2
    die "the test server did not start"
}

stop_server() {
    [ -n "$SERVER_PID" ] || return 0
    kill -TERM "$SERVER_PID"
    wait_for_end "$SERVER_PID" 60
    SERVER_PID=
}

# shellcheck disable=SC2317
finish() {
    local code=$? counts instance
    trap - EXIT
    if [ "$code" != 0 ] && [ -s "$SERVER_LOG" ]; then
        echo "-- the end of the server's log"
        # A refused call is a test's, mostly.
        grep -v ' refused path' "$SERVER_LOG" | tail -n 40 || true
    fi
    find "$WORK" -maxdepth 4 -name instance | while read -r instance; do
        scripts/clean-host.sh --only "$(dirname "$instance")" >/dev/null || true
    done
    counts=$(count "$code")
    rm -rf "$WORK" || true
    echo "== all: $(since "$STARTED")"
    echo "$counts"
    exit "$code"
}

# One line for all runners. A phase that failed without a failed test is one.
count() {
    awk -v code="$1" '
        # cargo: "test result: ok. 12 passed; 0 failed; 1 ignored; ..."
        # pytest: "==== 1 failed, 29 passed, 2 skipped in 3.21s ===="
        /^test result: / || (/ (passed|failed|skipped|error|errors)[, ]/ && / in [0-9.]+s/) {
            gsub(/\033\[[0-9;]*m/, "")
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) passed += $(i - 1)
                if ($i ~ /^(failed|errors?)/) failed += $(i - 1)
                if ($i ~ /^(skipped|ignored)/) skipped += $(i - 1)
            }
        }
        END {
            if (code && !failed) failed = 1
            printf "%d passed, %d failed%s\n", passed, failed, skipped ? ", " skipped " skipped" : ""
        }' "$RESULTS"
}

touch "$RESULTS"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

scripts/setup.sh
# What chooses the server of this host must not choose those of tests.
unset "${!NULLSPACE_@}"

unit_tests() {
    phase "unit tests: contract, server and clients" cargo test --release \
        -p nullspace-proto -p nullspace-server -p nullspace -p nullspace-cli
    phase "unit tests: agent" env CARGO_TARGET_DIR=target/agent \
        RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-fuse-ld=mold" \
        cargo test --release -p nullspace-agent --target x86_64-unknown-linux-gnu
}

end_to_end_tests() {
    start_server
    phase "end-to-end tests" cargo test --release -p nullspace-tests
    phase "Python tests" "$PYTHON" -m pytest tests/python
    stop_server
}

[ "$WHAT" = soak ] || unit_tests
# What tests make goes below the directory that is checked at the end.
export TMPDIR=$WORK NULLSPACED=$SERVER NULLSPACE_CLI=$CLI NULLSPACE_ASSETS=$ASSETS
phase "build the end-to-end tests" cargo test --release -p nullspace-tests --no-run
if [ "$WHAT" = soak ]; then
    # It has a server of its own.
    phase "soak of $SOAK s" cargo test --release -p nullspace-tests -- --nocapture load::a_soak
else
    end_to_end_tests
fi
phase "nothing is left on the host" scripts/check-host.sh "$WORK"
