# What a server has on the host, one thing a line. Everything carries the
# server's instance id, 8 characters that it keeps in its data directory.
# shellcheck shell=bash

# Network namespaces, one for each sandbox or free slot.
namespaces_of() {
    find /run/netns -maxdepth 1 -name "ns-$1-*" -printf '%f\n' 2>/dev/null || true
}

# The host's ends of the links into them.
links_of() {
    find /sys/class/net -maxdepth 1 -regex "/sys/class/net/n$1[0-9a-z]+" -printf '%f\n'
}

tables_of() {
    nft list tables 2>/dev/null | sed -n "s/^table \(inet nullspace_$1\)$/\1/p"
}

# Handles of rules in iptables' FORWARD.
rules_of() {
    { nft -a list chain ip filter FORWARD 2>/dev/null || true; } |
        awk -v mark="comment \"nullspace-$1\"" 'index($0, mark) { print $NF }'
}

# Deepest first. With cgroup v1 there is one tree for each controller.
cgroups_of() {
    local top
    find /sys/fs/cgroup -maxdepth 3 -type d -name "nullspace-$1" 2>/dev/null | while read -r top; do
        find "$top" -depth -type d 2>/dev/null || true
    done
}

# Process ids of what runs in its control groups, and of engine processes whose
# state is below its data directory, if one is given.
processes_of() {
    {
        grep -lsE "/nullspace-$1(/|\$)" /proc/[0-9]*/cgroup || true
        [ -z "${2:-}" ] || grep -lsaE "^[^[:cntrl:]]*runsc" /proc/[0-9]*/cmdline | xargs -r grep -lsaF -- "$2/" || true
    } | cut -d / -f 3 | sort -un
}

# The beginning of a process's command line. It may have ended meanwhile.
command_of() {
    { tr '\0' ' ' <"/proc/$1/cmdline" | cut -c 1-60; } 2>/dev/null || true
}

# Mount points below a data directory, deepest first.
mounts_below() {
    awk -v below="$1/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r
}
