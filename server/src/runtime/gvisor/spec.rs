//! The one spec. An image can be restored only with the mounts, capabilities,
//! limits, arguments and flags that it was made with, so all of this is final:
//! nothing here depends on a single sandbox, but for the parts that a restore
//! leaves free (sources of mounts, paths of namespaces and control group,
//! resources, host name).

use std::path::Path;

use nullspace_proto::limits::{MAX_PROCESSES, MIB};
use serde_json::{Value, json};

use super::cgroup;
use crate::runtime::Launch;

/// Docker's set, and SYS_ADMIN (host name, mounts, FUSE), NET_ADMIN (tun, veth),
/// SYS_PTRACE, and room. They act on the sandbox's own kernel.
const CAPABILITIES: [&str; 21] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RESOURCE",
];

/// A guest process costs about two tasks of the host; past the host's limit the
/// whole sandbox dies, so the sandbox's own limit must come first.
const HOST_TASKS: i64 = 4 * MAX_PROCESSES as i64;
const CPU_PERIOD_MICROSECONDS: i64 = 100_000;

/// runsc's flags that are stored in an image, without `--overlay2`.
pub const FLAGS: [&str; 9] = [
    "--platform=systrap",
    "--network=sandbox",
    "--directfs=true",
    "--file-access-mounts=shared",
    "--allow-suid=true",
    "--net-raw=true",
    "--cpu-num-from-quota=true",
    "--host-uds=none",
    // With v1 the sandbox has a hierarchy for each controller, and only one of
    // them is charged for a process, so `pids.max` would hold now and then.
    "--in-sandbox-cgroup=v2",
];

/// config.json of an execution whose directory is `directory`.
pub fn spec(launch: &Launch, directory: &Path, cgroup: &cgroup::Group) -> Value {
    let memory = u64::from(launch.memory_mib.unsigned_abs()) * MIB;
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["/run/nullspace/bin/nullspace-agent"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
                "inheritable": [],
                "ambient": [],
            },
            "rlimits": rlimits(),
            "noNewPrivileges": false,
        },
        "root": { "path": launch.template.rootfs, "readonly": false },
        "hostname": "sandbox",
        "mounts": mounts(launch, directory, memory),
        "linux": {
            "cgroupsPath": cgroup.spec_path(),
            "namespaces": [
                { "type": "pid" },
                { "type": "mount" },
                { "type": "ipc" },
                { "type": "uts" },
                { "type": "network", "path": launch.netns },
            ],
            "resources": {
                "memory": { "limit": memory },
                "cpu": { "quota": i64::from(launch.vcpus) * CPU_PERIOD_MICROSECONDS, "period": CPU_PERIOD_MICROSECONDS },
                "pids": { "limit": HOST_TASKS },
            },
        },
    })
}

/// All are set: one that is not would come from the server.
fn rlimits() -> Value {
    const UNLIMITED: u64 = u64::MAX;
    let limit =
        |name: &str, soft: u64, hard: u64| json!({ "type": format!("RLIMIT_{name}"), "soft": soft, "hard": hard });
    json!([
        limit("AS", UNLIMITED, UNLIMITED),
        limit("CORE", 0, UNLIMITED),
        limit("CPU", UNLIMITED, UNLIMITED),
        limit("DATA", UNLIMITED, UNLIMITED),
        limit("FSIZE", UNLIMITED, UNLIMITED),
        limit("LOCKS", UNLIMITED, UNLIMITED),
        limit("MEMLOCK", UNLIMITED, UNLIMITED),
        limit("MSGQUEUE", 819_200, 819_200),
        limit("NICE", 0, 0),
        limit("NOFILE", 65_536, 1_048_576),
        limit("NPROC", UNLIMITED, UNLIMITED),
        limit("RSS", UNLIMITED, UNLIMITED),
        limit("RTPRIO", 0, 0),
        limit("SIGPENDING", 95_000, 95_000),
        limit("STACK", 8 << 20, UNLIMITED),
    ])
}

fn mounts(launch: &Launch, directory: &Path, memory: u64) -> Value {
    let bind = |destination: &str, source: &Path, options: &[&str]| json!({ "destination": destination, "type": "bind", "source": source, "options": options });
    let volume = |mode: &'static str| ["rbind", "rslave", mode, "nosuid", "nodev", "dcache=0"];
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev"] },
        // Without it programs that share memory fail for users other than root.
        { "destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "nodev", "mode=1777", format!("size={}", memory / 2)] },
        bind("/run/nullspace/bin", &launch.agent, &["rbind", "ro", "nosuid", "nodev"]),
        bind("/run/nullspace/control", &directory.join("control"), &["rbind", "ro", "nosuid", "nodev", "noexec"]),
        bind("/run/nullspace/volumes/rw", &directory.join("volumes/rw"), &volume("rw")),
        bind("/run/nullspace/volumes/ro", &directory.join("volumes/ro"), &volume("ro")),
    ])
}
