#!/bin/bash
# The end-to-end tests in the virtual machine of scripts/test-cgroup2.sh. Its
# systemd starts this from the image of what was built, and powers off after it.
# The last line on the serial port has the status.
set -euo pipefail
exec </dev/null >/dev/ttyS1 2>&1
cd "$(dirname "$0")"

DATA=/var/lib/nullspace-test
# An emulated processor is an order of magnitude slower than a real one.
export NULLSPACE_TEST_PATIENCE=15
export NULLSPACED=$PWD/nullspaced NULLSPACE_ASSETS=$PWD/assets
export TMPDIR=$DATA
SERVER_PID=

# shellcheck disable=SC2317
finish() {
    local code=$?
    trap - EXIT
    if [ "$code" != 0 ]; then
        echo "-- the end of the server's log"
        grep -v ' refused path' $DATA/server.log | tail -n 40 || true
        echo "-- the end of the kernel's log"
        dmesg | tail -n 20
    fi
    echo "guest: status $code"
}
trap finish EXIT

start_server() {
    mkdir -p $DATA/server
    # A start takes seconds here: none is made that no test asked for.
    "$NULLSPACED" serve --data-dir $DATA/server --assets-dir "$NULLSPACE_ASSETS" --listen 127.0.0.1:0 \
        --pool-size 0 --client-config $DATA/client.json >$DATA/server.log 2>&1 &
    SERVER_PID=$!
    until [ -s $DATA/server/listen.addr ] && [ -s $DATA/client.json ]; do
        kill -0 "$SERVER_PID"
        sleep 0.2
    done
    NULLSPACE_API_URL=http://$(cat $DATA/server/listen.addr)
    NULLSPACE_API_KEY=$(sed -n 's/.*"api_key": *"\([^"]*\)".*/\1/p' $DATA/client.json)
    export NULLSPACE_API_URL NULLSPACE_API_KEY
}

[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]
echo "guest: $(uname -sr), cgroup v2, $(systemctl --version | head -n 1)"
ip link set lo up
mapfile -t tests <tests
[ "$(./e2e --exact "${tests[@]}" --list | grep -c ': test$')" = ${#tests[@]} ] || {
    echo "guest: some of these tests do not exist: ${tests[*]}"
    exit 1
}
start_server
./e2e --color=never --test-threads=1 --exact "${tests[@]}"
kill -TERM "$SERVER_PID"
wait "$SERVER_PID" || true
scripts/check-host.sh $DATA
