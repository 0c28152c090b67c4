//! How many ready sandboxes of each kind are worth having: as many as came at
//! once in the last minutes, within what the settings allow.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::Settings;
use crate::sandbox::boot::Kind;

/// What is older says nothing of what comes next.
const WINDOW: Duration = Duration::from_secs(300);
/// Creations within this time came at once: the pool cannot follow as fast.
const BURST: Duration = Duration::from_secs(10);
/// What an idle member takes of the host's memory, rounded up: its kernel, its
/// agent and its files' server.
pub(super) const MEMBER_MIB: usize = 32;
/// Creations of one kind that are remembered.
const REMEMBERED: usize = 1_024;
/// Kinds that are remembered.
const KINDS: usize = 64;

/// The creations of the last minutes.
#[derive(Default)]
pub(super) struct Demand(BTreeMap<Kind, VecDeque<Instant>>);

impl Demand {
    /// Somebody creates a sandbox of this kind.
    pub(super) fn note(&mut self, kind: &Kind, now: Instant) {
        let times = self.0.entry(kind.clone()).or_default();
        if times.len() == REMEMBERED {
            times.pop_front();
        }
        times.push_back(now);
        if self.0.len() > KINDS {
            let oldest = self.0.iter().min_by_key(|(_, times)| times.back().copied());
            if let Some(kind) = oldest.map(|(kind, _)| kind.clone()) {
                self.0.remove(&kind);
            }
        }
    }

    /// How many of each kind to have. `default` has its share first, then the
    /// kinds that were asked for last.
    pub(super) fn targets(&mut self, settings: &Settings, default: &Kind, now: Instant) -> Vec<(Kind, usize)> {
        if settings.size == 0 {
            return Vec::new();
        }
        for times in self.0.values_mut() {
            while times.front().is_some_and(|time| now.duration_since(*time) > WINDOW) {
                times.pop_front();
            }
        }
        self.0.retain(|_, times| !times.is_empty());
        let mut kinds: Vec<_> = self.0.iter().map(|(kind, times)| (times.back(), kind, wanted(times))).collect();
        kinds.sort_by(|a, b| b.0.cmp(&a.0));
        let asked = kinds.iter().find(|(_, kind, _)| *kind == default).map_or(0, |(_, _, wanted)| *wanted);
        let first = (default.clone(), asked.max(settings.ready));
        let others =
            kinds.iter().filter(|(_, kind, _)| *kind != default).map(|(_, kind, wanted)| ((*kind).clone(), *wanted));
        let mut room = settings.memory_mib / MEMBER_MIB;
        let shares = std::iter::once(first).chain(others).map(|(kind, wanted)| {
            let share = wanted.min(settings.size).min(room);
            room -= share;
            (kind, share)
        });
        shares.filter(|(_, share)| *share > 0).collect()
    }
}

/// The most that came at once. One creation alone announces no other.
fn wanted(times: &VecDeque<Instant>) -> usize {
    let mut first = 0;
    let bursts = times.iter().enumerate().map(|(last, time)| {
        while time.duration_since(times[first]) > BURST {
            first += 1;
        }
        last - first + 1
    });
    if times.len() < 2 { 0 } else { bursts.max().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(memory_mib: i32) -> Kind {
        Kind { template: "base".into(), vcpus: 1, memory_mib, disk_mib: 512, internet: true }
    }

    #[test]
    fn the_pool_follows_what_came_at_once() {
        let (mut demand, start) = (Demand::default(), Instant::now());
        let settings = Settings { size: 8, ready: 1, memory_mib: 320 };
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(demand.targets(&settings, &kind(256), start), [(kind(256), 1)]);

        demand.note(&kind(512), at(0));
        assert_eq!(demand.targets(&settings, &kind(256), at(1)), [(kind(256), 1)]);
        for _ in 0..4 {
            demand.note(&kind(512), at(2));
        }
        demand.note(&kind(512), at(60));
        assert_eq!(demand.targets(&settings, &kind(256), at(60)), [(kind(256), 1), (kind(512), 5)]);
        // Both bounds: eight of a kind, ten in all.
        for _ in 0..20 {
            demand.note(&kind(1_024), at(61));
        }
        assert_eq!(demand.targets(&settings, &kind(256), at(61)), [(kind(256), 1), (kind(1_024), 8), (kind(512), 1)]);
        // What was long ago is forgotten.
        assert_eq!(demand.targets(&settings, &kind(256), at(400)), [(kind(256), 1)]);
        assert_eq!(demand.targets(&Settings { size: 0, ..settings }, &kind(256), at(400)), []);
    }
}
