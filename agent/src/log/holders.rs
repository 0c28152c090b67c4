//! Who holds a log back, and until when.

use std::time::Duration;

use tokio::time::Instant;

/// The holders of one log.
pub struct Holders {
    grace: Duration,
    tokens: u64,
    holders: Vec<Holder>,
}

struct Holder {
    client: Client,
    token: u64,
    /// Everything below has been taken.
    taken: u64,
    lost: Option<Instant>,
}

#[derive(PartialEq)]
enum Client {
    /// The one that is expected when a log begins.
    Expected,
    Named(String),
}

impl Holders {
    /// A log that waits for its first holder as for one that was lost.
    pub fn new(grace: Duration, now: Instant) -> Self {
        let expected = Holder { client: Client::Expected, token: 0, taken: 0, lost: Some(now) };
        Self { grace, tokens: 0, holders: vec![expected] }
    }

    /// The offset below which no holder needs anything. None: nobody holds.
    pub fn floor(&mut self, now: Instant) -> Option<u64> {
        let grace = self.grace;
        self.holders.retain(|holder| holder.lost.is_none_or(|lost| now.duration_since(lost) < grace));
        self.holders.iter().map(|holder| holder.taken).min()
    }

    /// The same for those that are there alone.
    pub fn present_floor(&self) -> Option<u64> {
        self.holders.iter().filter(|holder| holder.lost.is_none()).map(|holder| holder.taken).min()
    }

    /// When the next lost holder stops to count.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.holders.iter().filter_map(|holder| holder.lost).min().map(|lost| lost + self.grace)
    }

    /// A new holder, or one that comes back: its hold goes on where it was.
    pub fn take(&mut self, client: &str, position: u64) -> u64 {
        self.tokens += 1;
        self.holders.retain(|holder| holder.client != Client::Expected);
        let known =
            self.holders.iter_mut().find(|holder| matches!(&holder.client, Client::Named(name) if name == client));
        match known {
            Some(holder) => {
                holder.token = self.tokens;
                holder.taken = holder.taken.max(position);
                holder.lost = None;
            }
            None => {
                let client = Client::Named(client.to_owned());
                self.holders.push(Holder { client, token: self.tokens, taken: position, lost: None });
            }
        }
        self.tokens
    }

    /// A holder has taken everything below `offset`.
    pub fn acknowledge(&mut self, token: u64, offset: u64) {
        if let Some(holder) = self.holders.iter_mut().find(|holder| holder.token == token) {
            holder.taken = holder.taken.max(offset);
        }
    }

    /// A holder is gone, unless another stream has taken its hold over.
    pub fn lose(&mut self, token: u64, now: Instant) {
        if let Some(holder) = self.holders.iter_mut().find(|holder| holder.token == token) {
            holder.lost = Some(now);
        }
    }
}
