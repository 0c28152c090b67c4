#!/usr/bin/env bash
# Fails if anything of the servers whose data directories are at or below DIR is
# left on this host: check-host.sh DIR. The servers must have stopped and their
# sandboxes must have been destroyed.
set -euo pipefail
# shellcheck source=scripts/host.sh
source "$(dirname "$0")/host.sh"

left_of() {
    local instance=$1 data=$2 pid
    namespaces_of "$instance" | sed 's/^/network namespace /'
    links_of "$instance" | sed 's/^/link /'
    tables_of "$instance" | sed 's/^/rules: table /'
    rules_of "$instance" | sed 's/^/rule of ip filter FORWARD, handle /'
    cgroups_of "$instance" | sed 's/^/control group /'
    for pid in $(processes_of "$instance" "$data"); do
        echo "process $pid ($(command_of "$pid"))"
    done
    mounts_below "$data" | sed 's/^/mount /'
}

code=0
while read -r file; do
    instance=$(cat "$file")
    data=$(cd "$(dirname "$file")" && pwd -P)
    left=$(left_of "$instance" "$data")
    if [ -n "$left" ]; then
        echo "left of $instance ($data):"
        echo "$left"
        code=1
    else
        echo "nothing of $instance ($data) is left"
    fi
done < <(find "${1:?usage: check-host.sh DIR}" -maxdepth 4 -name instance)
exit "$code"
