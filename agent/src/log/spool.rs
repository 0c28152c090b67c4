//! The part of a log that memory has no room for: an open file without a name,
//! which goes away with its log and is part of every image of the sandbox. It
//! consists of blocks, which are used again when what they held is dropped.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::store::{Chunk, Part};

/// What a run of one stream costs in memory.
const RUN_COST: usize = 16;
/// More runs than this are not kept: a program that changes its stream with
/// every byte would fill memory with them.
const MAX_RUNS: usize = 16 << 10;
/// A file grows by so much.
const BLOCK_BYTES: u64 = 64 << 10;
/// So many are written or read at once.
const ROW_BLOCKS: usize = 64;
/// How long a full disk is left alone.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// The files of all spools of an agent, and how much they may take together.
pub struct Disk {
    directory: PathBuf,
    limit: AtomicU64,
    used: AtomicU64,
    names: AtomicU64,
}

impl Disk {
    /// Spools below `directory`, which may take nothing yet.
    pub fn new(directory: PathBuf) -> Arc<Self> {
        Arc::new(Self { directory, limit: 0.into(), used: 0.into(), names: 0.into() })
    }

    /// Changes how much spools may take together.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// How much they may take more.
    pub fn available(&self) -> u64 {
        self.limit.load(Ordering::Relaxed).saturating_sub(self.used.load(Ordering::Relaxed))
    }

    /// A new file that nobody else can open.
    fn file(&self) -> io::Result<File> {
        let name = format!(".spool-{}-{}", std::process::id(), self.names.fetch_add(1, Ordering::Relaxed));
        let path = self.directory.join(name);
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }
}

/// Bytes of one log on disk.
pub struct Spool {
    file: File,
    disk: Arc<Disk>,
    /// How many blocks it may have.
    most: usize,
    /// How many it has. Its disk has so much less for others.
    blocks: usize,
    free: VecDeque<u32>,
    /// The disk was full: the file is not made longer until then.
    full_until: Option<Instant>,
    /// The blocks of what is kept, oldest first.
    used: VecDeque<u32>,
    /// The offset that lies at the beginning of the first of them.
    base: u64,
    start: u64,
    end: u64,
    /// Where each stream begins, oldest first; the first may begin before `start`.
    runs: VecDeque<(u64, u8)>,
}

impl Spool {
    /// An empty one for at most `capacity` bytes, of which the first will be at
    /// `offset` of the log.
    pub fn create(disk: &Arc<Disk>, capacity: u64, offset: u64) -> io::Result<Self> {
        Ok(Self {
            file: disk.file()?,
            disk: disk.clone(),
            // One more, because the first and the last are not whole.
            most: capacity.div_ceil(BLOCK_BYTES) as usize + 1,
            blocks: 0,
            free: VecDeque::new(),
            full_until: None,
            used: VecDeque::new(),
            base: offset,
            start: offset,
            end: offset,
            runs: VecDeque::new(),
        })
    }

    /// Forgets all bytes: the next one is at `offset`.
    pub fn restart(&mut self, offset: u64) {
        (self.base, self.start, self.end) = (offset, offset, offset);
        self.free.extend(self.used.drain(..));
        self.runs.clear();
    }

    /// The first byte that is kept.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How many bytes are kept.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// What it costs in memory.
    pub fn cost(&self) -> usize {
        self.runs.len() * RUN_COST
    }

    /// How many bytes it can take now.
    fn room(&self) -> u64 {
        if self.runs.len() >= MAX_RUNS {
            return 0;
        }
        let more = match self.full_until {
            Some(until) if Instant::now() < until => 0,
            _ => (self.disk.available() / BLOCK_BYTES).min((self.most - self.blocks) as u64),
        };
        self.base + (self.used.len() as u64 + self.free.len() as u64 + more) * BLOCK_BYTES - self.end
    }

    /// Makes room for so many bytes, by dropping the oldest but none from `floor`
    /// on. Whether there is room then.
    pub fn make_room(&mut self, bytes: u64, floor: u64) -> bool {
        let lacking = bytes.saturating_sub(self.room()).div_ceil(BLOCK_BYTES);
        let upto = self.base + lacking * BLOCK_BYTES;
        if lacking > 0 && upto <= floor.min(self.end) {
            self.trim(upto);
        }
        self.room() >= bytes
    }

    /// Appends bytes that follow those before. Refused when it has no room, and
    /// when the disk has none: then nothing has changed.
    pub fn push(&mut self, part: &Part) -> io::Result<()> {
        debug_assert_eq!(part.offset, self.end);
        if part.data.len() as u64 > self.room() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut rest = part.data.as_ref();
        let mut at = self.end;
        while self.base + self.used.len() as u64 * BLOCK_BYTES < at + rest.len() as u64 {
            let block = self.block();
            self.used.push_back(block);
        }
        while !rest.is_empty() {
            let Some((place, left)) = self.place(at) else { return Err(io::ErrorKind::StorageFull.into()) };
            let (now, later) = rest.split_at(rest.len().min(left as usize));
            if let Err(error) = self.file.write_all_at(now, place) {
                self.full_until = Some(Instant::now() + FULL_PAUSE);
                return Err(error);
            }
            (rest, at) = (later, at + now.len() as u64);
        }
        for (begin, tag) in part.runs() {
            if self.runs.back().is_none_or(|(_, last)| *last != tag) {
                self.runs.push_back((begin, tag));
            }
        }
        self.end = at;
        Ok(())
    }

    /// A block that holds nothing: one that was used before, or a new one.
    fn block(&mut self) -> u32 {
        // The one that was freed first: blocks in a row stay in a row.
        self.free.pop_front().unwrap_or_else(|| {
            self.disk.used.fetch_add(BLOCK_BYTES, Ordering::Relaxed);
            self.blocks += 1;
            self.blocks as u32 - 1
        })
    }

    /// Where in the file an offset lies, and how much there is of the file from
    /// there in one piece.
    fn place(&self, offset: u64) -> Option<(u64, u64)> {
        let from_base = offset - self.base;
        let (first, inside) = ((from_base / BLOCK_BYTES) as usize, from_base % BLOCK_BYTES);
        let block = *self.used.get(first)?;
        let row = self.used.range(first..).zip(block..).take_while(|(used, next)| *used == next).take(ROW_BLOCKS);
        Some((u64::from(block) * BLOCK_BYTES + inside, row.count() as u64 * BLOCK_BYTES - inside))
    }

    /// Bytes of one stream from `position`, which is kept, to `limit`; at most
    /// `max`.
    pub fn read(&self, position: u64, limit: u64, max: usize) -> io::Result<Chunk> {
        let run = self.runs.partition_point(|(begin, _)| *begin <= position);
        let tag = run.checked_sub(1).and_then(|run| self.runs.get(run)).map_or(0, |(_, tag)| *tag);
        let run_end = self.runs.get(run).map_or(self.end, |(begin, _)| *begin);
        let end = run_end.min(self.end).min(limit).min(position.saturating_add(max as u64));
        let mut data = vec![0; (end - position) as usize];
        let (mut rest, mut at) = (data.as_mut_slice(), position);
        while !rest.is_empty() {
            let (place, left) = self.place(at).ok_or(io::ErrorKind::UnexpectedEof)?;
            let (now, later) = rest.split_at_mut(rest.len().min(left as usize));
            self.file.read_exact_at(now, place)?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(Chunk { offset: position, tag, data: Bytes::from(data) })
    }

    /// Drops everything below `offset`.
    pub fn trim(&mut self, offset: u64) {
        self.start = offset.clamp(self.start, self.end);
        while self.base + BLOCK_BYTES <= self.start
            && let Some(block) = self.used.pop_front()
        {
            self.free.push_back(block);
            self.base += BLOCK_BYTES;
        }
        while self.runs.get(1).is_some_and(|(begin, _)| *begin <= self.start) {
            self.runs.pop_front();
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.disk.used.fetch_sub(self.blocks as u64 * BLOCK_BYTES, Ordering::Relaxed);
    }
}
