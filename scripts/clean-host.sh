#!/usr/bin/env bash
# Ends and removes what Nullspace servers made on this host: servers, sandboxes,
# network namespaces, links, rules, control groups and mounts. Files stay.
#
#   clean-host.sh                  every server's
#   clean-host.sh --only DATA_DIR  one server's
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/host.sh
source "$ROOT/scripts/host.sh"

# Seconds for a server to stop by itself.
STOP_LIMIT=20
ID='[0-9a-z]{8}'

say() {
    echo "removing $*"
    REMOVED=1
}

# Data directories, each once: the default one, those of tests, those of servers
# that run.
data_dirs() {
    {
        echo "$DATA"
        find /tmp -maxdepth 4 -path '/tmp/nullspace-*' -name instance -printf '%h\n' 2>/dev/null || true
        for pid in $(servers); do
            tr '\0' '\n' <"/proc/$pid/cmdline" | sed -n '/^--data-dir$/{n;p}; s/^--data-dir=//p'
        done
    } | while read -r directory; do
        [ ! -e "$directory/instance" ] || (cd "$directory" && pwd -P)
    done | sort -u
}

# Process ids of servers; with a data directory, of its server.
servers() {
    local exe pid
    for exe in /proc/[0-9]*/exe; do
        case $(readlink "$exe" || true) in */nullspaced | */nullspaced\ \(deleted\)) ;; *) continue ;; esac
        pid=$(cut -d / -f 3 <<<"$exe")
        [ $# -eq 0 ] || tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxE -e "(--data-dir=)?$1/?" || continue
        echo "$pid"
    done
}

# Ids that only names on the host tell of: their data directory is gone.
ids_by_name() {
    {
        find /run/netns -maxdepth 1 -printf '%f\n' 2>/dev/null | sed -nE "s/^ns-($ID)-[0-9]+\$/\1/p"
        nft list tables 2>/dev/null | sed -nE "s/^table inet nullspace_($ID)\$/\1/p"
        find /sys/fs/cgroup -maxdepth 3 -type d -printf '%f\n' 2>/dev/null | sed -nE "s/^nullspace-($ID)\$/\1/p"
    } | sort -u
}

stop_server() {
    local pid
    for pid in $(servers "$1"); do
        say "server, process $pid"
        kill -TERM "$pid" 2>/dev/null || true
        wait_for_end "$pid" "$STOP_LIMIT" || kill -KILL "$pid" 2>/dev/null || true
    done
}

remove() {
    local id=$1 data=${2:-} pid name
    # The engine's parent may start another process while one is being ended.
    for _ in 1 2 3; do
        for pid in $(processes_of "$id" "$data"); do
            say "process $pid ($(command_of "$pid"))"
            kill -KILL "$pid" 2>/dev/null || true
            wait_for_end "$pid" 5 || true
        done
    done
    for name in $(namespaces_of "$id"); do
        say "network namespace $name"
        ip netns delete "$name"
    done
    # A link goes with its other end's namespace, but later.
    for name in $(links_of "$id"); do
        say "link $name"
        ip link delete "$name" 2>/dev/null || [ ! -e "/sys/class/net/$name" ]
    done
    while read -r name; do
        say "rules: table $name"
        # shellcheck disable=SC2086
        nft delete table $name
    done < <(tables_of "$id")
    while read -r name; do
        say "rule of ip filter FORWARD, handle $name"
        nft delete rule ip filter FORWARD handle "$name"
    done < <(rules_of "$id")
    while read -r name; do
        say "control group $name"
        rmdir "$name"
    done < <(cgroups_of "$id")
    [ -n "$data" ] || return 0
    while read -r name; do
        say "mount $name"
        umount --lazy "$name"
    done < <(mounts_below "$data")
}

main() {
    local only='' data id
    REMOVED=0
    case ${1:-} in
    '') ;;
    --only) only=$(cd "${2:?--only needs a data directory}" && pwd -P) ;;
    *) die "usage: clean-host.sh [--only DATA_DIR]" ;;
    esac
    [ "$(id -u)" = 0 ] || die "run it as root"
    for data in ${only:-$(data_dirs)}; do
        stop_server "$data"
        [ ! -e "$data/instance" ] || remove "$(cat "$data/instance")" "$data"
    done
    if [ -z "$only" ]; then
        for id in $(ids_by_name); do
            remove "$id"
        done
    fi
    [ "$REMOVED" = 1 ] || echo "nothing of Nullspace is on this host"
}

main "$@"
