#!/usr/bin/env bash
# The server of this host, in the background: start, stop, or status.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

# Seconds until a start or stop has failed. A stop lets calls end first.
START_LIMIT=60
STOP_LIMIT=60

# The server's process id, if it runs. The number in the file may belong to
# another process by now.
server_pid() {
    local pid exe
    pid=$(cat "$PID_FILE" 2>/dev/null) || return 1
    exe=$(readlink "/proc/$pid/exe") || return 1
    case $(basename "${exe% (deleted)}") in nullspaced) echo "$pid" ;; *) return 1 ;; esac
}

start() {
    local pid
    if pid=$(server_pid); then
        if [ "/proc/$pid/exe" -ef "$SERVER" ]; then
            echo "nullspaced runs already (pid $pid) at $URL"
            return
        fi
        echo "nullspaced was built anew: restarting it; its sandboxes go on"
        stop
    elif "$SERVER" health --url "$URL" >/dev/null 2>&1; then
        echo "another server, not of $DATA, answers at $URL: using it"
        return
    fi
    mkdir -p "$(dirname "$LOG")"
    setsid nohup "$SERVER" serve --data-dir "$DATA" --assets-dir "$ASSETS" --listen "$LISTEN" \
        --client-config "$CLIENT_CONFIG" </dev/null >>"$LOG" 2>&1 &
    pid=$!
    echo "$pid" >"$PID_FILE"
    if ! wait_for_health "$URL" "$pid" "$START_LIMIT"; then
        tail -n 20 "$LOG" >&2
        die "nullspaced did not start; the end of $LOG is above"
    fi
    echo "nullspaced runs (pid $pid) at $URL"
}

stop() {
    local pid left
    if ! pid=$(server_pid); then
        echo "nullspaced does not run in $DATA"
        return
    fi
    kill -TERM "$pid"
    wait_for_end "$pid" "$STOP_LIMIT" || die "nullspaced (pid $pid) did not stop within $STOP_LIMIT s; see $LOG"
    rm -f "$PID_FILE"
    left=$(find /run/netns -name "ns-$(cat "$DATA/instance")-*" 2>/dev/null | wc -l)
    echo "nullspaced has stopped"
    [ "$left" = 0 ] || echo "sandboxes that go on: $left ('make start' takes them up again, 'make clean-host' removes them)"
}

case ${1:-} in
start) start ;;
stop) stop ;;
status) server_pid >/dev/null || die "nullspaced does not run in $DATA" ;;
*) die "usage: server.sh start|stop|status" ;;
esac
