#!/usr/bin/env bash
# End-to-end tests on a stock Debian with cgroup v2: a virtual machine whose
# processor is emulated, so that no host need allow another. With names of tests:
# only those. What it makes is below target/cgroup2.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

# Without the fork bomb: emulated, thousands of processes leave the agent no time
# to keep its connection alive.
TESTS=(
    limits::a_program_that_takes_too_much_memory_is_ended_alone
    limits::a_program_near_the_limit_goes_on_after_the_server_was_killed
    limits::a_full_disk_is_full_inside_only
    limits::the_death_of_a_kernel_is_said_at_once
    limits::the_first_sandbox_ends_beside_others
    limits::an_agent_at_rest_costs_at_most_two_mebibytes
    sandbox::a_new_sandbox_is_what_was_asked_for
    sandbox::a_destroyed_sandbox_stays_readable_and_takes_no_calls
    sandbox::metrics_tell_what_a_sandbox_uses
    command::argv_keeps_its_boundaries_and_a_shell_does_not
    command::input_has_offsets_and_an_end
    crash::a_stopped_server_leaves_its_sandboxes_to_the_next
    crash::a_kernel_that_died_meanwhile_is_found_dead
    crash::a_server_killed_at_any_step_leaves_nothing_stuck
)
# Seconds until the machine is taken to hang.
LIMIT=1800
SUITE=bookworm
PACKAGES=iproute2,kmod,linux-image-cloud-amd64,nftables,procps,systemd-sysv
WORK=$ROOT/target/cgroup2
MACHINE=

install_emulator() {
    ! command -v qemu-system-x86_64 >/dev/null || return 0
    echo "== installing qemu-system-x86"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-system-x86 >/dev/null
}

# Debian in an image, and its kernel. Made anew when it would be another.
make_system() {
    local source
    source=$(sha256sum <<<"$SUITE $PACKAGES $(declare -f make_system)")
    [ "$(cat "$WORK/source" 2>/dev/null)" != "$source" ] || return 0
    echo "== making the image of Debian, about a minute"
    rm -rf "$WORK"
    mkdir -p "$WORK"
    # shellcheck disable=SC2016
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=templates python3 -c "import build; print(build.debian_sources('$SUITE'))" |
        nice -n 15 mmdebstrap --quiet --mode=root --variant=minbase --include="$PACKAGES" \
            --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
            --customize-hook='mkdir "$1/payload"' \
            --customize-hook='printf "/dev/vda / ext4 defaults 0 0\n/dev/vdb /payload ext4 defaults 0 0\n" >"$1/etc/fstab"' \
            "$SUITE" "$WORK/system" -
    cp "$WORK"/system/boot/vmlinuz-* "$WORK/vmlinuz"
    cp "$WORK"/system/boot/initrd.img-* "$WORK/initrd"
    image system 8G
    echo "$source" >"$WORK/source"
}

make_payload() {
    local binary
    binary=$(nice -n 15 cargo test --release -p nullspace-tests --no-run 2>&1 |
        sed -n 's/.*Executable main.rs (\(.*\))/\1/p')
    [ -n "$binary" ] || die "the end-to-end tests could not be built"
    rm -rf "$WORK/payload"
    mkdir -p "$WORK/payload/assets" "$WORK/payload/scripts"
    cp "$SERVER" tests/guest/run.sh "$WORK/payload"
    cp "$binary" "$WORK/payload/e2e"
    cp scripts/check-host.sh scripts/host.sh "$WORK/payload/scripts"
    cp -a "$ASSETS"/{agents,engines,templates} "$WORK/payload/assets"
    printf '%s\n' "${TESTS[@]}" >"$WORK/payload/tests"
    image payload 2G
}

# An image of a directory, which it replaces.
image() {
    rm -f "$WORK/$1.img"
    truncate --size "$2" "$WORK/$1.img"
    nice -n 15 mkfs.ext4 -q -d "$WORK/$1" "$WORK/$1.img"
    rm -rf "${WORK:?}/$1"
}

# What the machine writes to its disks goes with it.
boot() {
    timeout -k 10 "$LIMIT" nice -n 15 qemu-system-x86_64 \
        -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 4G \
        -nodefaults -no-reboot -display none -device virtio-rng-pci \
        -drive "file=$WORK/system.img,format=raw,if=virtio,snapshot=on" \
        -drive "file=$WORK/payload.img,format=raw,if=virtio,snapshot=on" \
        -kernel "$WORK/vmlinuz" -initrd "$WORK/initrd" \
        -append "root=/dev/vda rw console=ttyS0 systemd.run=/payload/run.sh" \
        -serial "file:$WORK/console.log" \
        -chardev "stdio,id=results,logfile=$WORK/results.log" -serial chardev:results </dev/null &
    MACHINE=$!
    wait "$MACHINE" || die "the machine ended with $?, after $LIMIT s if that is 124; see $WORK/console.log"
    MACHINE=
}

# shellcheck disable=SC2317
finish() {
    [ -z "$MACHINE" ] || kill -TERM "$MACHINE" 2>/dev/null || true
    rm -rf "$WORK/system" "$WORK/payload"
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

STARTED=$(now)
[ $# -eq 0 ] || TESTS=("$@")
scripts/setup.sh prerequisites packages server agent engine template
install_emulator
make_system
make_payload
echo "== starting the machine after $(since "$STARTED")"
boot
echo "== all: $(since "$STARTED")"
tr -d '\r' <"$WORK/results.log" | grep -qx 'guest: status 0' || die "the tests in the machine failed"
