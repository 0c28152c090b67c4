//! How far a process may run ahead of those who take its output as it comes.
//! What they are sent comes from memory as long as they are near, and from disk
//! once it had to go there. One that stands still is not waited for here: that
//! is the log's to say, when retention is full.

use std::time::Duration;

use tokio::time::Instant;

/// How long a holder may stand still before the process goes on.
const PATIENCE: Duration = Duration::from_millis(2);

/// Where the slowest holder was seen, and how long it is waited for there.
#[derive(Default)]
pub struct Pace(Option<(u64, Instant)>);

impl Pace {
    /// Until when the process waits, unless the holder moves before. `behind` is
    /// what the slowest holder has taken, if it is far behind.
    pub fn wait(&mut self, behind: Option<u64>, now: Instant) -> Option<Instant> {
        let seen = self.0.filter(|(at, _)| Some(*at) == behind);
        self.0 = seen.or_else(|| behind.map(|at| (at, now + PATIENCE)));
        self.0.map(|(_, until)| until).filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_holder_is_waited_for_while_it_moves() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let later = |part: u32| now + PATIENCE * part / 4;
        assert_eq!(pace.wait(None, now), None);
        assert_eq!(pace.wait(Some(10), now), Some(later(4)));
        assert_eq!(pace.wait(Some(10), later(3)), Some(later(4)));
        // It moves, and has as long again.
        assert_eq!(pace.wait(Some(20), later(3)), Some(later(7)));
        // It stands still, and the process goes on for as long as it does.
        assert_eq!(pace.wait(Some(20), later(7)), None);
        assert_eq!(pace.wait(Some(20), later(9)), None);
        assert_eq!(pace.wait(Some(21), later(9)), Some(later(13)));
        // It is near again.
        assert_eq!(pace.wait(None, later(10)), None);
        assert_eq!(pace.wait(Some(21), later(14)), Some(later(18)));
    }
}
