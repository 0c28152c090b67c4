//! The commands that an agent remembers.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use nullspace_proto::{
    Error, Reason, Result, limits,
    v1::{self, CommandSpec, OutputStream},
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{
    Process, State, Streams,
    input::Input,
    launch,
    supervise::{Pipe, Supervisor},
};
use crate::{
    control::Control,
    log::{Budget, Log, Overflow},
};

/// Bytes of specs that are kept of commands that have ended. Past it the oldest
/// are kept without their spec: 65,536 of a mebibyte each would not fit.
const ENDED_SPEC_BYTES: usize = 4 << 20;

/// The commands of a sandbox.
pub struct Table {
    control: Arc<Control>,
    budget: Arc<Budget>,
    state: Mutex<Commands>,
}

#[derive(Default)]
struct Commands {
    sequence: u64,
    by_id: HashMap<Box<str>, Arc<Process>>,
    by_start: BTreeMap<u64, Arc<Process>>,
    /// In the order in which they ended.
    ended: VecDeque<(Instant, Arc<Process>)>,
    /// The same, as far as their specs are kept, with the size of those.
    specs: VecDeque<(usize, Arc<Process>)>,
    spec_bytes: usize,
    signals: Signals,
}

/// Which commands a list has.
pub struct Filter<'a> {
    /// Those that run.
    pub running_only: bool,
    /// Those with this tag, unless empty.
    pub tag: &'a str,
    /// The newest with this process id, unless 0.
    pub pid: i64,
}

impl Table {
    /// An empty table.
    pub fn new(control: Arc<Control>, budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { control, budget, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, Commands> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The command with this id.
    pub fn find(&self, id: &str) -> Result<Arc<Process>> {
        let mut state = self.state();
        state.forget_old();
        state.by_id.get(id).cloned().ok_or_else(|| Error::not_found(Reason::CommandNotFound, "command", id))
    }

    /// Starts a command, unless it was started before with the same spec. The
    /// check and the start are one step: a command is never started twice.
    pub fn start(self: &Arc<Self>, id: &str, spec: CommandSpec) -> Result<Arc<Process>> {
        // Maps are ordered here, so that equal specs have equal encodings.
        let digest: [u8; 32] = Sha256::digest(spec.encode_to_vec()).into();
        let mut state = self.state();
        state.forget_old();
        if let Some(known) = state.by_id.get(id) {
            return match known.digest == digest {
                true => Ok(known.clone()),
                false => {
                    let message = format!("command {id:?} was started with another spec");
                    Err(Error::new(Reason::IdempotencyKeyReused, message).with("command_id", id))
                }
            };
        }
        if state.by_id.len() >= limits::MAX_COMMANDS {
            let message = format!("the sandbox remembers {} commands and may not have more", limits::MAX_COMMANDS);
            return Err(Error::quota(Reason::CommandLimitReached, "commands", message));
        }
        state.sequence += 1;
        let sequence = state.sequence;
        let process = self.launch(id, spec, digest, sequence)?;
        state.by_id.insert(id.into(), process.clone());
        state.by_start.insert(sequence, process.clone());
        Ok(process)
    }

    fn launch(
        self: &Arc<Self>,
        id: &str,
        mut spec: CommandSpec,
        digest: [u8; 32],
        sequence: u64,
    ) -> Result<Arc<Process>> {
        let execution = self.control.execution()?;
        let user = self.control.users().find(&spec.user)?;
        let started = launch::start(&spec, &user, &execution)?;
        let now = Instant::now();
        let log = Log::new(retention(&spec), overflow(&spec), &self.budget);
        let input = if spec.open_stdin { Input::open(log.clone()) } else { Input::none(log.clone()) };
        spec.env.clear();
        let timeout = spec.timeout.and_then(|timeout| Duration::try_from(timeout).ok());
        let process = Arc::new(Process {
            id: id.into(),
            digest,
            sequence,
            pid: started.pid,
            log,
            input: input.clone(),
            execution_id: execution.id.clone(),
            cwd: started.cwd.into(),
            user: user.name.into(),
            tag: spec.tag.as_str().into(),
            started_at: SystemTime::now(),
            state: Mutex::new(State { spec: Some(Box::new(spec)), cause: None, sent: 0, exit: None }),
            streams: Mutex::new(Streams::default()),
        });
        let feeder = started.stdin.map(|stdin| tokio::spawn(input.feed(stdin)).abort_handle());
        // A pipe that cannot be watched would be output lost without a word: the
        // process is ended by its closing.
        let stdout = Pipe::new(started.stdout, OutputStream::Stdout).ok();
        let stderr = started.stderr.and_then(|stderr| Pipe::new(stderr, OutputStream::Stderr).ok());
        let supervisor = Supervisor {
            process: process.clone(),
            stdout,
            stderr,
            ended: started.ended,
            started: now,
            timeout,
            feeder,
        };
        let table = Arc::downgrade(self);
        let running = process.clone();
        tokio::spawn(async move {
            let ended = async {
                running.ended().await;
                if let Some(table) = table.upgrade() {
                    table.state().ended(running.clone());
                }
            };
            tokio::join!(supervisor.run(), ended);
        });
        Ok(process)
    }

    /// A page of commands, newest first, that started before `before`; at most
    /// `limit`, and fewer when `fits` says that they are too large.
    pub fn list(
        &self,
        filter: &Filter<'_>,
        before: u64,
        limit: usize,
        mut fits: impl FnMut(&v1::CommandInfo) -> bool,
    ) -> (Vec<v1::CommandInfo>, Option<u64>) {
        let mut state = self.state();
        state.forget_old();
        let wanted = |process: &&Arc<Process>| {
            (filter.tag.is_empty() || process.tag() == filter.tag)
                && (filter.pid == 0 || i64::from(process.pid) == filter.pid)
                && (!filter.running_only || process.exit().is_none())
        };
        let limit = if filter.pid == 0 { limit } else { 1 };
        let mut page = Vec::new();
        let mut last = before;
        for process in state.by_start.range(..before).rev().map(|(_, process)| process).filter(wanted) {
            if page.len() == limit {
                return (page, (filter.pid == 0).then_some(last));
            }
            let info = process.info();
            if !fits(&info) && !page.is_empty() {
                return (page, Some(last));
            }
            last = process.sequence;
            page.push(info);
        }
        (page, None)
    }

    /// Every command that has not ended.
    pub fn running(&self) -> Vec<Arc<Process>> {
        self.state().by_id.values().filter(|process| process.exit().is_none()).cloned().collect()
    }

    /// Sends a signal, once for each key.
    pub fn signal(&self, key: &str, id: &str, number: i32) -> Result<()> {
        let mut state = self.state();
        let digest = digest(&[id.as_bytes(), &number.to_be_bytes()]);
        if !key.is_empty() && state.signals.was_sent(key, digest)? {
            return Ok(());
        }
        state.forget_old();
        let process = state.by_id.get(id).ok_or_else(|| Error::not_found(Reason::CommandNotFound, "command", id))?;
        process.signal(number)?;
        if !key.is_empty() {
            state.signals.sent(key, digest);
        }
        Ok(())
    }
}

impl Commands {
    fn ended(&mut self, process: Arc<Process>) {
        let bytes = process.state().spec.as_ref().map_or(0, |spec| spec.encoded_len());
        self.specs.push_back((bytes, process.clone()));
        self.spec_bytes += bytes;
        while self.spec_bytes > ENDED_SPEC_BYTES
            && let Some((bytes, oldest)) = self.specs.pop_front()
        {
            self.spec_bytes -= bytes;
            oldest.state().spec = None;
        }
        self.ended.push_back((Instant::now(), process));
    }

    /// Forgets commands that ended long ago. Done when the table is used: a
    /// timer would wake a sandbox at rest.
    fn forget_old(&mut self) {
        let now = Instant::now();
        while self.ended.front().is_some_and(|(ended, _)| now.duration_since(*ended) >= limits::RETENTION)
            && let Some((_, process)) = self.ended.pop_front()
        {
            self.by_id.remove(&process.id);
            self.by_start.remove(&process.sequence);
            if self.specs.front().is_some_and(|(_, first)| Arc::ptr_eq(first, &process))
                && let Some((bytes, _)) = self.specs.pop_front()
            {
                self.spec_bytes -= bytes;
            }
        }
    }
}

/// Signals that were sent under a key, for a day.
#[derive(Default)]
struct Signals {
    sent: HashMap<[u8; 16], ([u8; 16], SystemTime)>,
    order: VecDeque<([u8; 16], Instant)>,
}

impl Signals {
    fn was_sent(&mut self, key: &str, digest: [u8; 16]) -> Result<bool> {
        let now = Instant::now();
        while self.order.front().is_some_and(|(_, sent)| now.duration_since(*sent) >= limits::RETENTION)
            && let Some((oldest, _)) = self.order.pop_front()
        {
            self.sent.remove(&oldest);
        }
        match self.sent.get(&self::digest(&[key.as_bytes()])) {
            None => Ok(false),
            Some((known, _)) if *known == digest => Ok(true),
            Some((_, first)) => {
                let first = prost_types::Timestamp::from(*first);
                let message = format!("key {key:?} was used for another signal at {first}");
                Err(Error::new(Reason::IdempotencyKeyReused, message).with("first_used_at", first))
            }
        }
    }

    fn sent(&mut self, key: &str, digest: [u8; 16]) {
        let key = self::digest(&[key.as_bytes()]);
        // A signal that is repeated long after it was sent does little harm;
        // unbounded memory does much.
        if self.order.len() >= limits::MAX_COMMANDS
            && let Some((oldest, _)) = self.order.pop_front()
        {
            self.sent.remove(&oldest);
        }
        self.sent.insert(key, (digest, SystemTime::now()));
        self.order.push_back((key, Instant::now()));
    }
}

/// Enough of a hash to tell requests apart, in little memory.
fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hash.finalize()[..16]);
    short
}

fn retention(spec: &CommandSpec) -> usize {
    let most = *limits::RETAIN_OUTPUT.end();
    usize::try_from(if spec.retain_output_bytes == 0 { most } else { spec.retain_output_bytes }).unwrap_or(0)
}

fn overflow(spec: &CommandSpec) -> Overflow {
    match spec.overflow() {
        v1::Overflow::Block => {
            let grace = spec.hold_grace.and_then(|grace| Duration::try_from(grace).ok());
            Overflow::Block { grace: grace.unwrap_or(limits::DEFAULT_HOLD_GRACE) }
        }
        _ => Overflow::Truncate,
    }
}
