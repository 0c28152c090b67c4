//! From a spec to a running process: who, where, with what environment, and
//! every way in which that can fail by its own name.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use nullspace_proto::{
    Error, Reason, Result,
    v1::{CommandSpec, command_spec::Program},
};
use rustix::{
    io::Errno,
    pipe::PipeFlags,
    process::{getgid, getuid},
};
use tokio::sync::oneshot;

use crate::{
    control::Execution,
    reap::{self, Ended},
    spawn::{Launch, SpawnError, Step},
    users::User,
};

/// PATH when neither the sandbox nor the command has one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Runs command lines of users that have no shell.
const DEFAULT_SHELL: &str = "/bin/sh";

/// A process that was just started, and our ends of its pipes.
pub struct Started {
    pub pid: i32,
    pub ended: oneshot::Receiver<Ended>,
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    /// None: it goes where standard output goes.
    pub stderr: Option<OwnedFd>,
    pub cwd: String,
}

/// Starts what `spec` says, as `user`, in an execution.
pub fn start(spec: &CommandSpec, user: &User, execution: &Execution) -> Result<Started> {
    let cwd = if spec.cwd.is_empty() { execution.cwd.clone() } else { spec.cwd.clone() };
    let env = environment(spec, user, execution);
    let (file, args) = match &spec.program {
        Some(Program::Shell(line)) => {
            let shell = shell(user);
            (PathBuf::from(&shell), vec![shell, "-c".to_owned(), line.clone()])
        }
        Some(Program::Argv(argv)) => {
            let program = argv.args.first().map_or("", String::as_str);
            (find(program, env.get("PATH").map_or(DEFAULT_PATH, |path| path), &cwd)?, argv.args.clone())
        }
        None => return Err(Error::invalid_field("spec.argv", "one of argv and shell is required")),
    };
    execution.room_for_a_process()?;

    let pipes = || failed("making its pipes");
    let (stdin, ours_in) = match spec.open_stdin {
        true => {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(pipes())?;
            set_nonblocking(&write).map_err(pipes())?;
            (Some(read), Some(write))
        }
        false => (None, None),
    };
    let (ours_out, stdout) = output_pipe().map_err(pipes())?;
    let (ours_err, stderr) = match spec.combine_output {
        true => (None, None),
        false => output_pipe().map(|(ours, theirs)| (Some(ours), Some(theirs))).map_err(pipes())?,
    };
    let launch = Launch {
        program: c_string(file.to_string_lossy().into_owned())?,
        argv: args.into_iter().map(c_string).collect::<Result<_>>()?,
        env: env.into_iter().map(|(name, value)| c_string(format!("{name}={value}"))).collect::<Result<_>>()?,
        cwd: c_string(cwd.clone())?,
        user: (!is_own(user)).then_some(user),
        stdio: [
            stdin.as_ref().map_or(execution.null(), |stdin| stdin.as_fd()),
            stdout.as_fd(),
            stderr.as_ref().unwrap_or(&stdout).as_fd(),
        ],
        cgroup: execution.cgroup_procs(),
    };
    let (pid, ended) = reap::start(&launch).map_err(|error| not_started(error, &file, &cwd))?;
    Ok(Started { pid, ended, stdin: ours_in, stdout: ours_out, stderr: ours_err, cwd })
}

/// The agent itself runs as this user: a child need not become it.
fn is_own(user: &User) -> bool {
    static OWN: OnceLock<(u32, u32, Vec<u32>)> = OnceLock::new();
    let (uid, gid, groups) = OWN.get_or_init(|| {
        let groups = rustix::process::getgroups().unwrap_or_default();
        (getuid().as_raw(), getgid().as_raw(), groups.into_iter().map(|group| group.as_raw()).collect())
    });
    let same = |group: &u32| *group == *gid || groups.contains(group);
    user.uid == *uid
        && user.gid == *gid
        && user.groups.iter().all(same)
        && groups.iter().all(|group| user.groups.contains(group))
}

fn failed(what: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::new(Reason::CommandStartFailed, format!("{what}: {errno}"))
}

fn c_string(text: String) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(Reason::CommandStartFailed, "a NUL in the program's arguments"))
}

/// Our end, which does not block, and the process's.
fn output_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    set_nonblocking(&read)?;
    Ok((read, write))
}

fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    rustix::fs::fcntl_setfl(fd, rustix::fs::OFlags::NONBLOCK)
}

/// Defaults of the user, then the sandbox's, then the command's own.
fn environment(spec: &CommandSpec, user: &User, execution: &Execution) -> BTreeMap<String, String> {
    let defaults = [
        ("HOME", user.home.as_str()),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
        ("SHELL", if user.shell.is_empty() { DEFAULT_SHELL } else { &user.shell }),
        ("PATH", DEFAULT_PATH),
    ];
    let mut env: BTreeMap<_, _> = defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for (name, value) in execution.envs.iter().chain(&spec.env) {
        env.insert(name.clone(), value.clone());
    }
    env
}

/// The user's shell, if it is one that runs commands.
fn shell(user: &User) -> String {
    let name = Path::new(&user.shell).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let usable = !matches!(name, "" | "nologin" | "false" | "true") && is_executable(Path::new(&user.shell));
    if usable { user.shell.clone() } else { DEFAULT_SHELL.to_owned() }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The file of a program. With a `/` it is taken as it is, below the directory
/// that the command starts in.
fn find(program: &str, path: &str, cwd: &str) -> Result<PathBuf> {
    if program.contains('/') {
        return Ok(program.into());
    }
    let mut found = None;
    for directory in path.split(':') {
        // An empty entry is the directory that the command starts in.
        let file = Path::new(cwd).join(directory).join(program);
        if is_executable(&file) {
            return Ok(file);
        }
        if file.is_file() {
            found.get_or_insert(file);
        }
    }
    Err(match found {
        Some(file) => not_executable(&file, "it has no permission to be executed"),
        None => Error::not_found(Reason::ProgramNotFound, "program", program),
    })
}

fn not_executable(file: &Path, why: impl std::fmt::Display) -> Error {
    let file = file.display().to_string();
    Error::wrong_state(Reason::ProgramNotExecutable, &file, format!("{file:?} cannot be executed: {why}"))
}

fn not_started(error: SpawnError, file: &Path, cwd: &str) -> Error {
    let SpawnError { step, errno } = error;
    match (step, errno) {
        (Step::Clone, Errno::AGAIN) => {
            Error::quota(Reason::ProcessLimitReached, "processes", "the sandbox may not have more processes")
        }
        (Step::Directory, _) => {
            let message = format!("{cwd:?} cannot be the working directory: {errno}");
            Error::wrong_state(Reason::WorkingDirectoryInvalid, cwd, message)
        }
        (Step::Exec, Errno::NOENT | Errno::NOTDIR) => {
            let file_there = Path::new(cwd).join(file).exists();
            let name = file.display().to_string();
            match file_there {
                true => Error::new(
                    Reason::ProgramNotFound,
                    format!("the interpreter or loader that {name:?} names does not exist"),
                ),
                false => Error::not_found(Reason::ProgramNotFound, "program", name),
            }
        }
        (Step::Exec, Errno::NOEXEC) => not_executable(file, "it is neither a program nor a script that begins with #!"),
        (Step::Exec, Errno::ACCESS | Errno::PERM | Errno::ISDIR | Errno::TXTBSY | Errno::LIBBAD) => {
            not_executable(file, errno)
        }
        _ => Error::new(Reason::CommandStartFailed, format!("{step:?}: {errno}")),
    }
}
