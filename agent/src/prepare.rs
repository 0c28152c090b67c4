//! What is made of an execution before the agent is told of its sandbox: files
//! of /etc, the host name, the cgroup of programs. It takes most of the time
//! between a call for a sandbox that waits and its answer.

use std::{
    fs,
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::Path,
};

use nullspace_proto::{Error, Result};

use crate::{Config, cgroup::Programs, fault::fault};

/// Largest file that is read from the control directory.
const MAX_CONTROL_BYTES: u64 = 64 << 10;
/// What the control directory has for /etc.
const ETC_FILES: [&str; 4] = ["hosts", "resolv.conf", "hostname", "machine-id"];

/// What is ready for an execution.
pub struct Prepared {
    /// The execution, as the control directory names it.
    pub execution_id: Vec<u8>,
    programs: Option<Programs>,
    null: OwnedFd,
}

impl Prepared {
    /// Makes all of it.
    pub fn new(config: &Config) -> Result<Self> {
        let execution_id = file(&config.control, "execution_id").map_err(doing("reading the execution id"))?;
        for name in ETC_FILES {
            place_in_etc(config, name).map_err(doing("writing to /etc"))?;
        }
        if config.pid1 {
            let name = file(&config.control, "hostname").map_err(doing("reading the host name"))?;
            rustix::system::sethostname(name.trim_ascii()).map_err(doing("setting the host name"))?;
        }
        let programs = config.cgroup.as_deref().map(Programs::create).transpose();
        let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null");
        Ok(Self {
            execution_id: execution_id.trim_ascii().to_vec(),
            programs: programs.map_err(doing("making a group for programs"))?,
            null: null.map_err(doing("opening /dev/null"))?.into(),
        })
    }

    /// The cgroup of programs, which may have so many processes, and /dev/null.
    /// 0: they are not counted.
    pub fn limited(self, processes: u32) -> Result<(Option<Programs>, OwnedFd)> {
        let Some(mut programs) = self.programs.filter(|_| processes > 0) else { return Ok((None, self.null)) };
        programs.set_limit(processes).map_err(doing("limiting processes"))?;
        Ok((Some(programs), self.null))
    }
}

/// A file of the control directory.
pub fn file(control: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(fs::File::open(control.join(name))?, MAX_CONTROL_BYTES), &mut bytes)?;
    Ok(bytes)
}

/// Copies a file of the control directory to a plain file of /etc. A mount there
/// would break `sed -i` and `mv`.
fn place_in_etc(config: &Config, name: &str) -> io::Result<()> {
    let bytes = match file(&config.control, name) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let temporary = config.etc.join(format!(".{name}.nullspace"));
    let write = |path: &Path| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
        file.write_all(&bytes)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))
    };
    write(&temporary).and_then(|()| fs::rename(&temporary, config.etc.join(name))).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// What went wrong while doing something that only we can do.
pub fn doing<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Error {
    move |error| fault(format!("{what}: {error}"))
}
