//! What a log keeps: the newest bytes in memory, and what memory has no room for
//! in a spool. Together they have no gap.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    spool::{Disk, Spool},
    store::{Chunk, Store},
};

/// The kept bytes of a log.
pub struct Tiers {
    memory: Store,
    spool: Option<Spool>,
    disk: Arc<Disk>,
    capacity: u64,
}

impl Tiers {
    /// Nothing yet; at most `capacity` bytes will lie on disk.
    pub fn new(disk: &Arc<Disk>, capacity: usize) -> Self {
        Self { memory: Store::default(), spool: None, disk: disk.clone(), capacity: capacity.max(1) as u64 }
    }

    /// The first byte that is kept.
    pub fn start(&self) -> u64 {
        match &self.spool {
            Some(spool) if spool.bytes() > 0 => spool.start(),
            _ => self.memory.start(),
        }
    }

    /// The end.
    pub fn end(&self) -> u64 {
        self.memory.end()
    }

    /// How many bytes are kept.
    pub fn bytes(&self) -> usize {
        (self.end() - self.start()) as usize
    }

    /// Bytes of memory, nearly.
    pub fn cost(&self) -> usize {
        self.memory.cost() + self.spool.as_ref().map_or(0, Spool::cost)
    }

    /// Something of it is on disk.
    pub fn is_on_disk(&self) -> bool {
        self.spool.is_some()
    }

    /// Appends a part as it is.
    pub fn push(&mut self, tag: u8, data: Bytes) {
        self.memory.push(tag, data);
    }

    /// Appends a copy to the part that grows.
    pub fn pack(&mut self, tag: u8, data: &[u8]) {
        self.memory.pack(tag, data);
    }

    /// Whether more than `retain` is kept, or in more parts than that allows.
    pub fn exceeds(&self, retain: usize) -> bool {
        self.bytes().max(self.memory.overhead()) > retain
    }

    /// Whether it is in more parts than `retain` allows.
    pub fn exceeds_parts(&self, retain: usize) -> bool {
        self.memory.overhead() > retain
    }

    /// Drops the oldest bytes, but none from `floor` on, until at most `retain`
    /// are kept, and parts that cost no more than that.
    pub fn trim(&mut self, retain: usize, floor: u64) {
        while self.memory.overhead() > retain && self.spill_one() {}
        let upto = floor.min(self.end().saturating_sub(retain as u64));
        if let Some(spool) = &mut self.spool {
            spool.trim(upto);
        }
        let before = self.memory.start();
        self.memory.trim(retain, floor);
        self.follow_on(before);
    }

    /// Gives memory back until at most `target` is used: moves the oldest bytes
    /// to disk, and drops what has no room there, but none from `floor` on.
    pub fn shed(&mut self, target: usize, floor: u64) {
        self.spill(target);
        while self.memory.cost() > target
            && let Some(part) = self.memory.front()
        {
            // In the file the oldest give way, so that what is kept has no gap.
            let bytes = part.data.len() as u64;
            let made = self.spool.as_mut().is_some_and(|spool| spool.make_room(bytes, floor));
            if !made || !self.spill_one() {
                break;
            }
        }
        let before = self.memory.start();
        self.memory.shed(target, floor);
        self.follow_on(before);
    }

    /// Drops what is on disk, unless that has something from `floor` on. Whether
    /// it did.
    pub fn leave_disk(&mut self, floor: u64) -> bool {
        let left = floor >= self.memory.start();
        if left {
            self.spool = None;
        }
        left
    }

    /// Moves parts to disk, oldest first, until memory costs at most `target` or
    /// the disk takes no more.
    pub fn spill(&mut self, target: usize) {
        while self.memory.cost() > target && self.spill_one() {}
    }

    fn spill_one(&mut self) -> bool {
        let Some(part) = self.memory.front() else { return false };
        if self.spool.is_none() && self.disk.available().min(self.capacity) >= part.data.len() as u64 {
            self.spool = Spool::create(&self.disk, self.capacity, part.offset).ok();
        }
        let moved = self.spool.as_mut().is_some_and(|spool| spool.push(part).is_ok());
        if moved {
            self.memory.pop();
        }
        moved
    }

    /// When memory has dropped bytes, what lies before them is of no use.
    fn follow_on(&mut self, before: u64) {
        let start = self.memory.start();
        if let Some(spool) = &mut self.spool
            && (start != before || spool.bytes() == 0)
        {
            spool.restart(start);
        }
    }

    /// Bytes of one stream from `position`, which is kept, to `limit`; at most
    /// `max`. `Err`: they cannot be read; the first byte that can is given.
    pub fn read(&mut self, position: u64, limit: u64, max: usize) -> Result<Option<Chunk>, u64> {
        let memory = self.memory.start();
        match &self.spool {
            Some(spool) if position < memory && position < limit => {
                let read = spool.read(position, limit, max);
                read.map(Some).map_err(|_| {
                    self.spool = None;
                    memory
                })
            }
            _ => Ok(self.memory.read(position, limit, max)),
        }
    }
}
