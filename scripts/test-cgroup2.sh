#!/usr/bin/env bash
# End-to-end tests on a host with cgroup v2: a virtual machine with Debian's
# kernel and systemd, its processor emulated, so that any host can run it. What
# it needs is below target/cgroup2; with names of tests: only those.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
# The numbers of this script's own processes are the only ones that it ends.
cd "$ROOT"

TESTS=(
    limits::a_program_that_takes_too_much_memory_is_ended_alone
    limits::a_full_disk_is_full_inside_only
    limits::a_fork_bomb_gets_eagain_and_the_sandbox_lives
    limits::the_death_of_a_kernel_is_said_at_once
    limits::an_agent_at_rest_costs_at_most_two_mebibytes
    sandbox::a_new_sandbox_is_what_was_asked_for
    sandbox::a_destroyed_sandbox_stays_readable_and_takes_no_calls
    sandbox::metrics_tell_what_a_sandbox_uses
    command::a_timeout_ends_the_whole_group
    command::input_has_offsets_and_an_end
    crash::a_stopped_server_leaves_its_sandboxes_to_the_next
    crash::a_kernel_that_died_meanwhile_is_found_dead
    crash::a_server_killed_at_any_step_leaves_nothing_stuck
)
# Seconds until the virtual machine is taken to hang.
LIMIT=1800
SUITE=bookworm
PACKAGES=iproute2,kmod,linux-image-cloud-amd64,nftables,procps,systemd-sysv
WORK=$ROOT/target/cgroup2

# Debian in an image, its kernel beside it.
make_system() {
    local inputs
    inputs=$(cat "$0" | sha256sum)
    [ "$(cat "$WORK/system.source" 2>/dev/null)" != "$inputs" ] || return 0
    echo "== making the image of Debian, about a minute"
    rm -rf "$WORK"
    mkdir -p "$WORK"
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=templates python3 -c "import build; print(build.debian_sources('$SUITE'))" |
        nice -n 15 mmdebstrap --quiet --mode=root --variant=minbase --include="$PACKAGES" \
            --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
            --customize-hook='printf "/dev/vda / ext4\n/dev/vdb /payload ext4\n" >"$1/etc/fstab"; mkdir "$1/payload"' \
            "$SUITE" "$WORK/system" -
    cp "$WORK"/system/boot/vmlinuz-* "$WORK/vmlinuz"
    cp "$WORK"/system/boot/initrd.img-* "$WORK/initrd"
    image system 8G
    echo "$inputs" >"$WORK/system.source"
}

# What was built.
make_payload() {
    local binary
    binary=$(cargo test --release -p nullspace-tests --no-run 2>&1 | sed -n 's/.*Executable main.rs (\(.*\))/\1/p')
    [ -n "$binary" ] || die "the end-to-end tests were not built"
    mkdir -p "$WORK/payload/assets" "$WORK/payload/scripts"
    cp "$SERVER" tests/guest/run.sh "$WORK/payload"
    cp "$binary" "$WORK/payload/e2e"
    cp scripts/check-host.sh scripts/host.sh "$WORK/payload/scripts"
    cp -a "$ASSETS"/{agents,engines,templates} "$WORK/payload/assets"
    printf '%s\n' "${TESTS[@]}" >"$WORK/payload/tests"
    image payload 2G
}

image() {
    mkfs.ext4 -q -F -d "$WORK/$1" "$WORK/$1.img" "$2"
    rm -rf "${WORK:?}/$1"
}

boot() {
    timeout --foreground -k 10 "$LIMIT" nice -n 15 qemu-system-x86_64 \
        -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 4G \
        -nodefaults -no-reboot -nographic -nic none -device virtio-rng-pci \
        -drive "file=$WORK/system.img,format=raw,if=virtio,snapshot=on" \
        -drive "file=$WORK/payload.img,format=raw,if=virtio,snapshot=on" \
        -kernel "$WORK/vmlinuz" -initrd "$WORK/initrd" \
        -append "root=/dev/vda rw console=ttyS0 systemd.run=/payload/run.sh" \
        -serial "file:$WORK/console.log" -serial stdio </dev/null | tee "$WORK/guest.log"
}
