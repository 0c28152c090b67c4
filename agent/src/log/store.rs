//! The bytes of a log.

use std::collections::VecDeque;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// What a part costs beside its bytes: its entry and the head of its buffer.
const PART_COST: usize = 96;
/// Small appends are packed into parts of this size.
const PACK_BYTES: usize = 16 << 10;
/// A part with this much left is given as it is, and not joined with the next.
const JOIN_BYTES: u64 = 256 << 10;

/// Bytes of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where they begin.
    pub offset: u64,
    /// Which stream they are of.
    pub tag: u8,
    /// The bytes.
    pub data: Bytes,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// Parts, oldest first, without a gap, and then a part that still grows.
#[derive(Default)]
pub struct Store {
    parts: VecDeque<Chunk>,
    tail: BytesMut,
    tail_tag: u8,
    start: u64,
    end: u64,
}

impl Store {
    /// The first byte that is kept.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The end.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes are kept.
    pub fn bytes(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// What the parts cost beside their bytes. It is bounded like them, so that
    /// a program that changes its stream with every byte cannot fill memory.
    pub fn overhead(&self) -> usize {
        self.parts.len() * PART_COST
    }

    /// Bytes of memory, nearly.
    pub fn cost(&self) -> usize {
        self.bytes() + self.overhead()
    }

    /// Appends a part as it is.
    pub fn push(&mut self, tag: u8, data: Bytes) {
        self.seal();
        let offset = self.end;
        self.end += data.len() as u64;
        self.parts.push_back(Chunk { offset, tag, data });
    }

    /// Appends a copy to the part that grows.
    pub fn pack(&mut self, tag: u8, mut data: &[u8]) {
        if tag != self.tail_tag {
            self.seal();
            self.tail_tag = tag;
        }
        while !data.is_empty() {
            let n = data.len().min(PACK_BYTES - self.tail.len());
            self.tail.put_slice(&data[..n]);
            self.end += n as u64;
            data = &data[n..];
            if self.tail.len() == PACK_BYTES {
                self.seal();
            }
        }
    }

    fn tail_offset(&self) -> u64 {
        self.end - self.tail.len() as u64
    }

    /// Ends the part that grows. A short one is copied: its buffer may be
    /// larger than it is.
    fn seal(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let offset = self.tail_offset();
        let data = match self.tail.len() * 2 >= self.tail.capacity() {
            true => std::mem::take(&mut self.tail).freeze(),
            false => Bytes::copy_from_slice(&self.tail),
        };
        self.tail.clear();
        self.parts.push_back(Chunk { offset, tag: self.tail_tag, data });
    }

    /// Drops the oldest bytes, but none from `floor` on, until at most `retain`
    /// are kept, and parts that cost no more than that.
    pub fn trim(&mut self, retain: usize, floor: u64) {
        while self.overhead() > retain && self.parts.front().is_some_and(|part| part.end() <= floor) {
            self.pop();
        }
        let upto = floor.min(self.end.saturating_sub(retain as u64));
        while self.parts.front().is_some_and(|part| part.end() <= upto) {
            self.pop();
        }
        if self.start >= upto {
            return;
        }
        match self.parts.front_mut() {
            Some(part) => {
                part.data.advance((upto - part.offset) as usize);
                part.offset = upto;
            }
            None => self.tail = BytesMut::from(&self.tail[(upto - self.start) as usize..]),
        }
        self.start = upto;
    }

    /// Drops whole parts, oldest first, until the cost is at most `target`: to
    /// give memory back.
    pub fn shed(&mut self, target: usize, floor: u64) {
        while self.cost() > target && self.parts.front().is_some_and(|part| part.end() <= floor) {
            self.pop();
        }
        if self.parts.is_empty() && self.cost() > target && self.end <= floor {
            self.tail = BytesMut::new();
            self.start = self.end;
        }
        if self.parts.len() * 4 < self.parts.capacity() {
            self.parts.shrink_to_fit();
        }
    }

    /// The oldest part that grows no more.
    pub fn front(&self) -> Option<&Chunk> {
        self.parts.front()
    }

    /// Drops the oldest part.
    pub fn pop(&mut self) {
        if let Some(part) = self.parts.pop_front() {
            self.start = part.end();
        }
    }

    /// Bytes of one stream from `position`, which is kept, to `limit`; at most
    /// `max`. One large part is given without a copy, several are joined.
    pub fn read(&self, position: u64, limit: u64, max: usize) -> Option<Chunk> {
        let limit = limit.min(position.saturating_add(max as u64));
        if position >= limit {
            return None;
        }
        let first = self.parts.partition_point(|part| part.end() <= position);
        let Some(part) = self.parts.get(first) else {
            let data = Bytes::copy_from_slice(self.tail_from(position, limit));
            return Some(Chunk { offset: position, tag: self.tail_tag, data });
        };
        let tag = part.tag;
        let slice = |part: &Chunk| {
            let from = position.saturating_sub(part.offset) as usize;
            let to = (limit.min(part.end()) - part.offset) as usize;
            from..to
        };
        let same = self.parts.range(first..).take_while(|part| part.tag == tag && part.offset < limit);
        let joined = same.clone().last().map_or(part.end(), Chunk::end).min(limit);
        let tail = joined == self.tail_offset() && joined < limit && self.tail_tag == tag && !self.tail.is_empty();
        if (joined <= part.end() && !tail) || part.end() - position >= JOIN_BYTES {
            return Some(Chunk { offset: position, tag, data: part.data.slice(slice(part)) });
        }
        let end = if tail { limit } else { joined };
        let mut data = BytesMut::with_capacity((end - position) as usize);
        for part in same {
            data.put_slice(&part.data[slice(part)]);
        }
        if tail {
            data.put_slice(self.tail_from(joined, limit));
        }
        Some(Chunk { offset: position, tag, data: data.freeze() })
    }

    fn tail_from(&self, from: u64, to: u64) -> &[u8] {
        let offset = self.tail_offset();
        &self.tail[(from - offset) as usize..(to.min(self.end) - offset) as usize]
    }
}
