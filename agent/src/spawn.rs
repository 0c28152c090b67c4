//! Starts a program as fast as the kernel can, and says exactly why it could
//! not. The only module with unsafe code: `clone` with shared memory, the few
//! system calls between it and `execve`, `wait4`, which no safe library offers
//! with the resources that the child used, the watching of pipes, and giving
//! memory back.
//!
//! `posix_spawn` is not used: glibc makes two calls for each of 64 signals,
//! which in gVisor costs as much as the program's own start, and it cannot
//! set the user, the groups, the cgroup or say which step failed.
#![allow(unsafe_code)]

use std::{
    ffi::{CString, c_char, c_int, c_void},
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use rustix::io::Errno;
use tokio::io::{Interest, unix::AsyncFd};

use crate::users::User;

/// A program that is ready to be started.
pub struct Launch<'a> {
    /// The file to execute; with a `/`.
    pub program: CString,
    /// Its arguments, beginning with its name.
    pub argv: Vec<CString>,
    /// Its environment, as NAME=VALUE.
    pub env: Vec<CString>,
    /// The directory it starts in.
    pub cwd: CString,
    /// Whom it runs as. None: as the agent.
    pub user: Option<&'a User>,
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// `cgroup.procs` of the group it joins.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// What the child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Step {
    /// Making the process.
    Clone,
    /// Leading a session of its own.
    Session,
    /// Joining the cgroup.
    Cgroup,
    /// Placing standard input, output and error.
    Stdio,
    /// Becoming the user.
    User,
    /// Entering the directory.
    Directory,
    /// Executing the program.
    Exec,
}

const STEPS: [Step; 7] =
    [Step::Clone, Step::Session, Step::Cgroup, Step::Stdio, Step::User, Step::Directory, Step::Exec];

/// Why a program did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnError {
    /// What failed.
    pub step: Step,
    /// How.
    pub errno: Errno,
}

/// Bytes of stack for the child: its frames are a few hundred bytes.
const STACK_BYTES: usize = 32 << 10;

/// Where the child runs until `execve`. One spawn at a time may use it.
pub struct Stack(Box<[u128]>);

impl Stack {
    /// A stack, to be used again and again.
    pub fn new() -> Self {
        Self(vec![0u128; STACK_BYTES / size_of::<u128>()].into_boxed_slice())
    }
}

/// What parent and child share.
struct Shared<'a> {
    program: *const c_char,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    cwd: *const c_char,
    user: Option<&'a User>,
    stdio: [c_int; 3],
    cgroup: Option<c_int>,
    ignored: &'a [c_int],
    failed: AtomicI32,
    errno: AtomicI32,
}

/// Starts a program in a session and process group of its own and gives its
/// process id. When it returns, the program runs.
pub fn spawn(launch: &Launch<'_>, stack: &mut Stack) -> Result<i32, SpawnError> {
    let pointers = |strings: &[CString]| {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect::<Vec<*const c_char>>()
    };
    let shared = Shared {
        program: launch.program.as_ptr(),
        argv: pointers(&launch.argv),
        env: pointers(&launch.env),
        cwd: launch.cwd.as_ptr(),
        user: launch.user,
        stdio: launch.stdio.map(|fd| fd.as_raw_fd()),
        cgroup: launch.cgroup.map(|fd| fd.as_raw_fd()),
        ignored: ignored_signals(),
        failed: AtomicI32::new(-1),
        errno: AtomicI32::new(0),
    };
    let top = stack.0.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child runs `child` on `stack`, which nothing else uses while
    // this thread stands still (CLONE_VFORK) and which outlives it; `shared`
    // outlives it for the same reason. Signals stay as they are: the handlers
    // that could run in the child on shared memory are the runtime's, which only
    // wakes it, and those of faults, which the child has none of.
    let pid = unsafe { libc::clone(child, top.cast(), flags, ptr::from_ref(&shared).cast_mut().cast()) };
    if pid < 0 {
        return Err(SpawnError { step: Step::Clone, errno: last_errno() });
    }
    let failed = shared.failed.load(Ordering::Relaxed);
    let Some(step) = usize::try_from(failed).ok().and_then(|step| STEPS.get(step)) else { return Ok(pid) };
    // It is ending or has ended; it must not be left as a zombie.
    // SAFETY: only writes through the null pointers' absence, to nothing.
    unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
    Err(SpawnError { step: *step, errno: Errno::from_raw_os_error(shared.errno.load(Ordering::Relaxed)) })
}

/// Runs in the child, on memory shared with the parent: it allocates nothing,
/// cannot panic and calls only what is safe there. User and groups are set by
/// bare system calls, because glibc's functions would try to do the same in
/// the parent's threads.
extern "C" fn child(shared: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a `Shared` that lives until the child executes or
    // ends; every pointer in it ends in NUL or null.
    unsafe {
        let shared = &*shared.cast_const().cast::<Shared<'_>>();
        let fail = |step: Step| -> ! {
            shared.errno.store(*libc::__errno_location(), Ordering::Relaxed);
            shared.failed.store(step as i32, Ordering::Relaxed);
            libc::_exit(127)
        };
        if libc::setsid() < 0 {
            fail(Step::Session);
        }
        if let Some(procs) = shared.cgroup
            && libc::pwrite(procs, c"0".as_ptr().cast(), 1, 0) != 1
        {
            fail(Step::Cgroup);
        }
        for (target, source) in shared.stdio.into_iter().enumerate() {
            // The agent's own descriptors are above 2, so no source is lost.
            if libc::dup2(source, target as c_int) < 0 {
                fail(Step::Stdio);
            }
        }
        if let Some(user) = &shared.user
            && (libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) != 0
                || libc::syscall(libc::SYS_setgid, user.gid) != 0
                || libc::syscall(libc::SYS_setuid, user.uid) != 0)
        {
            fail(Step::User);
        }
        if libc::chdir(shared.cwd) != 0 {
            fail(Step::Directory);
        }
        // Handlers end with `execve`; what is ignored would stay so.
        for &signal in shared.ignored {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::execve(shared.program, shared.argv.as_ptr(), shared.env.as_ptr());
        fail(Step::Exec)
    }
}

/// The signals that this process ignores: SIGPIPE, and what was ignored when it
/// started.
fn ignored_signals() -> &'static [c_int] {
    static IGNORED: OnceLock<Vec<c_int>> = OnceLock::new();
    IGNORED.get_or_init(|| {
        let ignored = |&signal: &c_int| {
            // SAFETY: only asks; `action` is written before it is read.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
            }
        };
        (1..=64).filter(ignored).collect()
    })
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A child that was reaped.
#[derive(Debug, Clone, Copy)]
pub struct Reaped {
    /// Its process id, which may now belong to another.
    pub pid: i32,
    /// How it ended.
    pub outcome: Outcome,
    /// User and system time of it and the children it waited for.
    pub cpu_time: Duration,
    /// Its largest resident size, in bytes; 0 if that cannot be told.
    pub peak_memory_bytes: i64,
}

/// Reaps one child that has ended, if there is one.
pub fn reap() -> Option<Reaped> {
    let mut status = 0;
    // SAFETY: `wait4` writes to two values that live here; zeroes are a valid
    // `rusage`.
    let (pid, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(-1, &mut status, libc::WNOHANG, &mut usage), usage)
    };
    if pid <= 0 {
        return None;
    }
    let time = |value: libc::timeval| {
        let micros = value.tv_sec.saturating_mul(1_000_000).saturating_add(value.tv_usec);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    let outcome = match libc::WIFSIGNALED(status) {
        true => Outcome::Signal(libc::WTERMSIG(status)),
        false => Outcome::Code(libc::WEXITSTATUS(status)),
    };
    let cpu_time = time(usage.ru_utime) + time(usage.ru_stime);
    // Until it executed its program the child shared our memory, and the kernel
    // counts that: what is not above our own peak is not its.
    let peak = if usage.ru_maxrss > own_peak_kib() { usage.ru_maxrss } else { 0 };
    Some(Reaped { pid, outcome, cpu_time, peak_memory_bytes: peak.saturating_mul(1024) })
}

fn own_peak_kib() -> i64 {
    // SAFETY: `getrusage` writes to a value that lives here.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage.ru_maxrss
    }
}

/// Sends a signal, of any number, to a process group.
pub fn signal_group(pgid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes no pointers. A group of 0 or 1 would be everybody.
    match pgid > 1 && unsafe { libc::kill(-pgid, signal) } == 0 {
        true => Ok(()),
        false if pgid <= 1 => Err(Errno::SRCH),
        false => Err(last_errno()),
    }
}

/// Watches a pipe of a child for `interest`.
pub fn watch(pipe: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open file for as long as it lives, and
    // `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(pipe, interest) }?)
}

/// Gives memory that is free here back to the system. The allocator keeps it,
/// which makes the next large output twice as fast, but a sandbox at rest has
/// nothing of that.
pub fn give_memory_back() {
    // SAFETY: touches only what is free.
    unsafe { libc::malloc_trim(0) };
}

fn last_errno() -> Errno {
    Errno::from_raw_os_error(io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Makes this process one whose children begin clean. Every descriptor above
/// standard error closes on `execve`: what the agent was given by its parent is
/// not for commands. No signal is blocked. And SIGPIPE, which programs of this
/// language ignore, is caught instead, since what is caught is reset by
/// `execve`: one call less for each child.
pub fn begin_clean() {
    extern "C" fn caught(_: c_int) {}
    // SAFETY: changes flags of descriptors, closes none; the handler does nothing.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as c_int);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        libc::signal(libc::SIGPIPE, caught as *const () as libc::sighandler_t);
        // Blocks of a mebibyte are used again, and not returned and taken anew with
        // a fault for each page; `give_memory_back` returns them.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 8 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 20);
    }
}
