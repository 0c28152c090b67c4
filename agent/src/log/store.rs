//! The bytes of a log.

use std::collections::VecDeque;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// What a part costs beside its bytes: its entry and the head of its buffer.
const PART_COST: usize = 112;
/// What each change of the stream within a part costs.
const CHANGE_COST: usize = size_of::<u16>();
/// Small appends are packed into parts of this size. Offsets in them fit in `u16`.
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

/// Which stream each byte of a part is of. At most two take turns in one: a
/// program that changes its stream with every byte must not fill memory.
#[derive(Default)]
struct Turns {
    tags: [u8; 2],
    /// Where the stream changes, from the beginning of the part.
    changes: Vec<u16>,
}

impl Turns {
    fn of(tag: u8) -> Self {
        Self { tags: [tag, tag], changes: Vec::new() }
    }

    /// How many changes there are up to a place, which has the stream after them.
    fn before(&self, place: usize) -> usize {
        self.changes.partition_point(|change| usize::from(*change) <= place)
    }

    fn tag(&self, turn: usize) -> u8 {
        self.tags[turn % 2]
    }

    /// Whether bytes of a stream can follow at `place`, below the size of a pack.
    /// Not if that would be the third.
    fn follow(&mut self, tag: u8, place: usize) -> bool {
        let turn = self.changes.len();
        if tag == self.tag(turn) {
            return true;
        }
        if turn == 0 {
            self.tags[1] = tag;
        }
        let follows = tag == self.tag(turn + 1);
        if follows {
            self.changes.push(place as u16);
        }
        follows
    }
}

/// Bytes that grow no more.
pub struct Part {
    /// The first byte that is kept.
    pub offset: u64,
    /// The bytes from there.
    pub data: Bytes,
    /// Where the part began.
    base: u64,
    turns: Turns,
}

impl Part {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    /// Where its streams take turns, and which begins there.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u8)> {
        let first = self.turns.before((self.offset - self.base) as usize);
        let later = self.turns.changes.iter().enumerate().skip(first);
        let later = later.map(|(turn, change)| (self.base + u64::from(*change), self.turns.tag(turn + 1)));
        std::iter::once((self.offset, self.turns.tag(first))).chain(later)
    }
}

/// Bytes in a row, of one stream.
struct Run<'a> {
    tag: u8,
    bytes: &'a [u8],
    /// The part that has them, unless it still grows.
    part: Option<&'a Part>,
}

/// Parts, oldest first, without a gap, and then a part that still grows.
#[derive(Default)]
pub struct Store {
    parts: VecDeque<Part>,
    /// Changes of the stream within the parts.
    changes: usize,
    tail: BytesMut,
    tail_turns: Turns,
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
    /// a program that changes its stream all the time cannot fill memory.
    pub fn overhead(&self) -> usize {
        self.parts.len() * PART_COST + (self.changes + self.tail_turns.changes.len()) * CHANGE_COST
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
        self.parts.push_back(Part { offset, data, base: offset, turns: Turns::of(tag) });
    }

    /// Appends a copy to the part that grows.
    pub fn pack(&mut self, tag: u8, mut data: &[u8]) {
        while !data.is_empty() {
            if !self.tail.is_empty() && !self.tail_turns.follow(tag, self.tail.len()) {
                self.seal();
            }
            if self.tail.is_empty() {
                self.tail_turns = Turns::of(tag);
            }
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
        let mut turns = std::mem::take(&mut self.tail_turns);
        turns.changes.shrink_to_fit();
        self.changes += turns.changes.len();
        self.parts.push_back(Part { offset, data, base: offset, turns });
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
        if self.parts.is_empty() {
            self.seal();
        }
        if let Some(part) = self.parts.front_mut() {
            part.data.advance((upto - part.offset) as usize);
            part.offset = upto;
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
            (self.tail, self.tail_turns) = (BytesMut::new(), Turns::default());
            self.start = self.end;
        }
        if self.parts.len() * 4 < self.parts.capacity() {
            self.parts.shrink_to_fit();
        }
    }

    /// The oldest part that grows no more.
    pub fn front(&self) -> Option<&Part> {
        self.parts.front()
    }

    /// Drops the oldest part.
    pub fn pop(&mut self) {
        if let Some(part) = self.parts.pop_front() {
            self.changes -= part.turns.changes.len();
            self.start = part.end();
        }
    }

    /// Bytes of one stream from `position`, which is kept, to `limit`; at most
    /// `max`. One large part is given without a copy, several are joined.
    pub fn read(&self, position: u64, limit: u64, max: usize) -> Option<Chunk> {
        let limit = limit.min(position.saturating_add(max as u64));
        let first = self.run(position, limit)?;
        let (tag, mut end) = (first.tag, position + first.bytes.len() as u64);
        let chunk = |data| Some(Chunk { offset: position, tag, data });
        let next = |from| self.run(from, limit).filter(|next| next.tag == tag);
        if let Some(part) = first.part
            && (part.end() - position >= JOIN_BYTES || next(end).is_none())
        {
            return chunk(part.data.slice_ref(first.bytes));
        }
        let mut data = BytesMut::from(first.bytes);
        while let Some(next) = next(end) {
            data.put_slice(next.bytes);
            end += next.bytes.len() as u64;
        }
        chunk(data.freeze())
    }

    /// The bytes from `from`, which is kept, to `to` or to where the stream or the
    /// part changes. None: there are none.
    fn run(&self, from: u64, to: u64) -> Option<Run<'_>> {
        if from >= to.min(self.end) {
            return None;
        }
        let part = self.parts.get(self.parts.partition_point(|part| part.end() <= from));
        let (base, offset, data, turns) = match part {
            Some(part) => (part.base, part.offset, part.data.as_ref(), &part.turns),
            None => (self.tail_offset(), self.tail_offset(), self.tail.as_ref(), &self.tail_turns),
        };
        let turn = turns.before((from - base) as usize);
        let change = turns.changes.get(turn).map_or(u64::MAX, |change| base + u64::from(*change));
        let end = to.min(change).min(offset + data.len() as u64);
        let bytes = &data[(from - offset) as usize..(end - offset) as usize];
        Some(Run { tag: turns.tag(turn), bytes, part })
    }
}
