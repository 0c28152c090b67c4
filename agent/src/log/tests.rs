#![allow(clippy::unwrap_used)]

use super::*;

const KIB: usize = 1 << 10;
const GRACE: Duration = Duration::from_secs(60);

/// So many bytes of memory and of disk for all logs.
fn budget(memory: usize, disk: u64) -> Arc<Budget> {
    let spools = Disk::new(std::env::temp_dir());
    spools.set_limit(disk);
    Budget::new(memory, spools)
}

/// Bytes that tell where they are from.
fn numbered(from: usize, bytes: usize) -> Bytes {
    (from..from + bytes).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

fn log(retain: usize, overflow: Overflow) -> Arc<Log> {
    Log::new(retain, overflow, &budget(64 << 20, 0))
}

fn blocking(retain: usize) -> Arc<Log> {
    log(retain, Overflow::Block { grace: GRACE })
}

/// Everything from `position` on, as (tag, text).
fn rest(log: &Log, mut position: u64) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some(piece) = log.read(&mut position, 1 << 20, true) {
        match piece {
            Piece::Data(chunk) => found.push((chunk.tag, chunk.data.to_vec())),
            Piece::Lost(offset) => found.push((0, offset.to_string().into_bytes())),
        }
    }
    found
}

fn fill(log: &Log, bytes: usize) {
    for _ in 0..bytes / KIB {
        log.append_copy(1, &[b'x'; KIB]);
    }
}

#[tokio::test(start_paused = true)]
async fn offsets_count_over_all_streams_in_the_order_of_appends() {
    let log = log(1 << 20, Overflow::Truncate);
    for (tag, text) in [(1, "one"), (1, "two"), (2, "three"), (1, "four")] {
        log.append_copy(tag, text.as_bytes());
    }
    log.append(1, Bytes::from_static(b"five"));
    let expected = [(1, b"onetwo".to_vec()), (2, b"three".to_vec()), (1, b"fourfive".to_vec())];
    assert_eq!(rest(&log, 0), expected);
    assert_eq!(rest(&log, 3), [(1, b"two".to_vec()), expected[1].clone(), expected[2].clone()]);
    assert_eq!(rest(&log, 17), [(1, b"ve".to_vec())]);
    assert_eq!(log.range(), (0, 19));
}

#[tokio::test(start_paused = true)]
async fn every_offset_reads_the_same_bytes_however_they_were_appended() {
    let log = log(1 << 20, Overflow::Truncate);
    let all: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let mut sizes = [1usize, 7, 300, 16 * KIB, 20_000, 5, 70_000].into_iter().cycle();
    let mut done = 0;
    while done < all.len() {
        let n = sizes.next().unwrap().min(all.len() - done);
        match n >= 16 * KIB {
            true => log.append(1, Bytes::copy_from_slice(&all[done..done + n])),
            false => log.append_copy(1, &all[done..done + n]),
        }
        done += n;
    }
    for start in [0, 1, 15, 16_383, 16_384, 16_385, 123_456, 199_999] {
        for max in [1, 1_000, 65_536, 1 << 20] {
            let mut position = start as u64;
            let Some(Piece::Data(chunk)) = log.read(&mut position, max, true) else { panic!("nothing at {start}") };
            let end = start + chunk.data.len();
            assert!(chunk.data.len() <= max && chunk.data == all[start..end] && position == end as u64);
        }
    }
}

/// Three streams in runs of many lengths, trimmed to any byte, in memory and on
/// disk, beside a list of every byte.
#[tokio::test(start_paused = true)]
async fn streams_that_take_turns_are_read_as_they_were_written() {
    for (retain, memory, disk) in [(10_007, 1 << 20, 0), (100_003, 1 << 20, 0), (400_000, 64 << 10, 4 << 20)] {
        let log = Log::new(retain, Overflow::Truncate, &budget(1 << 20, disk));
        let mut written: Vec<(u8, u8)> = Vec::new();
        let mut random = 1u32;
        let mut next = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        for round in 0..60_000 {
            // Now and then many bytes of one stream, mostly few, at times a third stream.
            let tag = 1 + (if next(40) == 0 { 2 } else { next(2) }) as u8;
            let size = if next(300) == 0 { next(40_000) } else { next(4) } as usize;
            let data: Vec<u8> = (0..size).map(|byte| (round + byte) as u8).collect();
            written.extend(data.iter().map(|byte| (tag, *byte)));
            match size > 16 * KIB {
                true => log.append(tag, Bytes::from(data)),
                false => log.append_copy(tag, &data),
            }
            if round % 97 == 0 {
                log.shed(memory, Needed::ByAllHolders);
            }
            if round % 5_000 != 4_999 {
                continue;
            }
            log.publish();
            let (start, end) = log.range();
            assert_eq!((end as usize, disk > 0), (written.len(), log.is_on_disk()));
            let mut position = start;
            while position < end {
                let from = position as usize;
                let Some(Piece::Data(chunk)) = log.read(&mut position, 1 + next(9_000) as usize, true) else {
                    panic!("nothing at {from} of {start} to {end}")
                };
                let read = chunk.data.iter().map(|byte| (chunk.tag, *byte));
                assert!(read.eq(written[from..position as usize].iter().copied()), "at {from} of {start} to {end}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn truncate_keeps_the_last_bytes_and_tells_readers() {
    let log = log(64 * KIB, Overflow::Truncate);
    fill(&log, 64 * KIB);
    assert_eq!(log.range(), (0, 64 << 10));
    log.append_copy(1, b"abc");
    assert_eq!(log.range(), (3, (64 << 10) + 3));
    log.append(1, Bytes::from(vec![b'y'; 200 * KIB]));
    let end = (264 << 10) + 3;
    assert_eq!(log.range(), (end - (64 << 10), end));
    let mut position = 5;
    assert_eq!(log.read(&mut position, 1 << 20, false), Some(Piece::Lost(end - (64 << 10))));
    assert!(
        matches!(log.read(&mut position, 1 << 20, false), Some(Piece::Data(chunk)) if chunk.data.len() == 64 * KIB)
    );
    assert_eq!((position, log.room()), (end, Room::Bytes(usize::MAX)));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_stream_with_every_byte_does_not_fill_memory() {
    let log = log(64 * KIB, Overflow::Truncate);
    for n in 0..1_000_000 {
        log.append_copy(n as u8 % 2, b"z");
    }
    assert!(log.cost() <= 2 * 64 * KIB + 256, "{}", log.cost());
    let log = blocking(64 * KIB);
    let _hold = log.hold("a", 0).unwrap();
    let mut appended = 0;
    while log.room() != (Room::Full { until: None }) {
        log.append_copy(appended as u8 % 2, b"z");
        appended += 1;
    }
    assert!(log.cost() <= 2 * 64 * KIB && log.range().0 == 0);
    assert!(appended >= 32 * KIB, "a holder need not acknowledge {appended} bytes");
}

#[tokio::test(start_paused = true)]
async fn first_bytes_go_at_once_and_the_next_ones_in_batches() {
    let log = log(1 << 20, Overflow::Truncate);
    log.append_copy(1, b"a");
    assert!(log.has_more(0));
    log.append_copy(1, b"b");
    assert!(!log.has_more(1) && log.publish_at() == Some(Instant::now() + QUIET));
    log.append_copy(1, &[b'c'; 16 * KIB]);
    assert!(log.has_more(1) && log.publish_at().is_none());
    log.append_copy(1, b"d");
    tokio::time::advance(QUIET).await;
    log.append_copy(1, b"e");
    assert!(log.has_more(16 * KIB as u64 + 3));
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_the_slowest_holder() {
    let log = blocking(64 * KIB);
    let (slow, fast) = (log.hold("slow", 0).unwrap(), log.hold("fast", 0).unwrap());
    fill(&log, 64 * KIB);
    assert_eq!(log.room(), Room::Full { until: None });
    fast.acknowledge(64 << 10);
    assert_eq!(log.room(), Room::Full { until: None });
    slow.acknowledge(1_000);
    assert_eq!(log.room(), Room::Bytes(1_000));
    // An offset that does not exist counts as the end.
    slow.acknowledge(1 << 40);
    assert_eq!(log.room(), Room::Bytes(64 * KIB));
    // What is acknowledged stays readable as long as there is room.
    assert_eq!(log.range().0, 0);
    fill(&log, KIB);
    assert_eq!(log.range().0, 1_024);
}

#[tokio::test(start_paused = true)]
async fn the_first_holder_is_waited_for_and_then_no_more() {
    let log = blocking(64 * KIB);
    fill(&log, 64 * KIB);
    let until = Instant::now() + GRACE;
    assert_eq!(log.room(), Room::Full { until: Some(until) });
    tokio::time::advance(GRACE - Duration::from_millis(1)).await;
    assert_eq!(log.room(), Room::Full { until: Some(until) });
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(log.room(), Room::Bytes(usize::MAX));
    fill(&log, 64 * KIB);
    assert_eq!(log.range().0, 64 << 10);
    // One that comes later holds from where it is.
    let hold = log.hold("late", 0).unwrap();
    assert_eq!(log.room(), Room::Full { until: None });
    hold.acknowledge(100 << 10);
    assert_eq!(log.room(), Room::Bytes(36 * KIB));
}

#[tokio::test(start_paused = true)]
async fn a_lost_holder_is_waited_for_and_can_come_back() {
    let log = blocking(64 * KIB);
    let hold = log.hold("a", 0).unwrap();
    hold.acknowledge(0);
    fill(&log, 64 * KIB);
    drop(hold);
    tokio::time::advance(GRACE / 2).await;
    assert_eq!(log.room(), Room::Full { until: Some(Instant::now() + GRACE / 2) });
    // It comes back: its hold goes on, without any end.
    let again = log.hold("a", 10 << 10).unwrap();
    tokio::time::advance(GRACE * 2).await;
    assert_eq!(log.room(), Room::Bytes(10 * KIB));
    // A newer stream takes it over at once; the older one's end means nothing.
    let newer = log.hold("a", 20 << 10).unwrap();
    drop(again);
    tokio::time::advance(GRACE * 2).await;
    assert_eq!(log.room(), Room::Bytes(20 * KIB));
    drop(newer);
    tokio::time::advance(GRACE).await;
    assert_eq!(log.room(), Room::Bytes(usize::MAX));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_writer_is_woken_by_an_acknowledgement() {
    let log = blocking(64 * KIB);
    let hold = log.hold("a", 0).unwrap();
    fill(&log, 64 * KIB);
    let waiting = log.room_changed();
    tokio::pin!(waiting);
    waiting.as_mut().enable();
    assert_eq!(log.room(), Room::Full { until: None });
    hold.acknowledge(1);
    waiting.await;
    assert_eq!(log.room(), Room::Bytes(1));
}

#[tokio::test(start_paused = true)]
async fn closed_logs_give_way_first_and_the_oldest_before_others() {
    let budget = budget(8 << 20, 0);
    let new = || Log::new(64 << 20, Overflow::Truncate, &budget);
    let (first, second, open) = (new(), new(), new());
    for log in [&first, &second] {
        for _ in 0..3 {
            log.append(1, Bytes::from(vec![1; 1 << 20]));
        }
        log.close();
    }
    for _ in 0..4 {
        open.append(1, Bytes::from(vec![1; 1 << 20]));
    }
    let kept = |log: &Log| (log.range().1 - log.range().0) >> 20;
    assert_eq!((kept(&first), kept(&second), kept(&open)), (0, 3, 4));
    for _ in 0..10 {
        open.append(1, Bytes::from(vec![1; 1 << 20]));
    }
    assert_eq!((kept(&first), kept(&second), kept(&open)), (0, 0, 7));
    // An open log keeps a mebibyte whatever the others do, and is told of more.
    let other = new();
    for _ in 0..10 {
        other.append(1, Bytes::from(vec![1; 1 << 20]));
        open.append(1, Bytes::from(vec![1; 1 << 20]));
    }
    assert!(kept(&open) >= 1 && kept(&other) >= 1 && kept(&open) + kept(&other) <= 8);
    let mut position = 0;
    assert!(matches!(first.read(&mut position, 1, false), Some(Piece::Lost(offset)) if offset == 3 << 20));
    drop((first, second, open, other));
    assert_eq!(budget.allowance(0), 8 << 20);
}

#[tokio::test(start_paused = true)]
async fn under_a_small_budget_a_writer_waits_earlier_and_no_held_byte_is_lost() {
    let budget = budget(4 << 20, 0);
    let log = Log::new(64 << 20, Overflow::Block { grace: GRACE }, &budget);
    let hold = log.hold("a", 0).unwrap();
    let mut kept = 0;
    while let Room::Bytes(room) = log.room() {
        log.append(1, Bytes::from(vec![1; room.min(1 << 20)]));
        kept += 1;
    }
    assert_eq!(log.range().0, 0);
    assert!((3..=5).contains(&kept), "{kept}");
    log.close();
    let other = Log::new(64 << 20, Overflow::Truncate, &budget);
    other.append(1, Bytes::from(vec![1; 3 << 20]));
    assert_eq!(log.range().0, 0, "its holder still needs it");
    // One that is lost is spared as long as others can give way.
    drop(hold);
    let closed = Log::new(64 << 20, Overflow::Truncate, &budget);
    closed.append(1, Bytes::from(vec![1; 1 << 20]));
    closed.close();
    other.append(1, Bytes::from(vec![1; 1 << 20]));
    assert_eq!((closed.range().0, log.range().0), (1 << 20, 1 << 20));
}

/// However little memory there is, and however much each byte costs of it.
#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_no_less_than_a_holder_must_acknowledge() {
    let budget = budget(2 << 20, 0);
    let other = Log::new(64 << 20, Overflow::Truncate, &budget);
    other.append(1, Bytes::from(vec![1; 2 << 20]));
    let alternate = |log: &Log| {
        let mut written = 0;
        while let Room::Bytes(_) = log.room() {
            log.append_copy(1 + (written % 2) as u8, b"x");
            written += 1;
        }
        written
    };
    for (retain, promised) in [(64 << 20, 256 << 10), (64 << 10, 32 << 10)] {
        let log = Log::new(retain, Overflow::Block { grace: GRACE }, &budget);
        let hold = log.hold("a", 0).unwrap();
        let written = alternate(&log);
        assert!(written >= promised, "{written}");
        // Each acknowledgement brings as much again.
        hold.acknowledge(promised as u64);
        assert!(alternate(&log) >= promised);
    }
    // A block that is needed for its end only is in memory whole.
    let log = Log::new(64 << 20, Overflow::Block { grace: GRACE }, &budget);
    let hold = log.hold("a", 0).unwrap();
    log.append(1, Bytes::from(vec![1; 3 << 20]));
    assert!(matches!(log.room(), Room::Full { .. }));
    hold.acknowledge((3 << 20) - (256 << 10) + 1);
    assert!(matches!(log.room(), Room::Bytes(1..)));
}

#[tokio::test(start_paused = true)]
async fn what_closed_logs_keep_is_room_for_a_writer_that_waits() {
    let budget = budget(8 << 20, 0);
    let closed = Log::new(64 << 20, Overflow::Truncate, &budget);
    for _ in 0..8 {
        closed.append(1, Bytes::from(vec![1; 1 << 20]));
    }
    closed.close();
    let log = Log::new(64 << 20, Overflow::Block { grace: GRACE }, &budget);
    let _hold = log.hold("a", 0).unwrap();
    let mut kept = 0;
    while let Room::Bytes(room) = log.room() {
        let n = room.min(100_000);
        log.append(1, Bytes::from(vec![1; n]));
        kept += n;
    }
    assert!(kept > 7 << 20, "{kept}");
    assert_eq!(closed.range(), (8 << 20, 8 << 20));
    drop(closed);
    drop(log);
    assert_eq!(budget.allowance(0), 8 << 20);
}

/// The short output of a command that has just ended is not what makes room for
/// a loud one beside it: its reader is on its way.
#[tokio::test(start_paused = true)]
async fn what_was_closed_a_moment_ago_gives_way_last() {
    let budget = budget(8 << 20, 0);
    let fresh = Log::new(64 << 20, Overflow::Truncate, &budget);
    fresh.append(1, Bytes::from_static(b"beside\n"));
    fresh.close();
    let loud = Log::new(64 << 20, Overflow::Truncate, &budget);
    let fill = || (0..20).for_each(|_| loud.append(1, Bytes::from(vec![0; 1 << 20])));
    fill();
    assert_eq!(fresh.range(), (0, 7));
    tokio::time::advance(Duration::from_secs(11)).await;
    fill();
    assert_eq!(fresh.range(), (7, 7));
}

/// A command has ended while its holder's stream was broken: another command's
/// noise is not what the holder loses its output to.
#[tokio::test(start_paused = true)]
async fn a_holder_that_comes_back_in_time_finds_all_of_what_has_ended() {
    for disk in [0, 4 << 20] {
        let budget = budget(8 << 20, disk);
        let ended = Log::new(64 << 20, Overflow::Block { grace: GRACE }, &budget);
        let hold = ended.hold("a", 0).unwrap();
        ended.append(1, Bytes::from(vec![1; 3 << 20]));
        drop(hold);
        ended.close();
        let loud = Log::new(64 << 20, Overflow::Truncate, &budget);
        let fill = || (0..40).for_each(|_| loud.append(1, Bytes::from(vec![0; 1 << 20])));
        fill();
        budget.spill();
        fill();
        assert_eq!(ended.range(), (0, 3 << 20), "with {disk} of disk");
        // It does not come: what is there for others is theirs.
        tokio::time::advance(GRACE + Duration::from_secs(11)).await;
        fill();
        assert!(ended.range().0 > 0, "with {disk} of disk");
    }
}

/// Reads from every part of a log are what was appended, with its stream.
fn check_all(log: &Log, step: usize) {
    let (start, end) = log.range();
    for from in (start..end).step_by(step) {
        let mut position = from;
        let Some(Piece::Data(chunk)) = log.read(&mut position, 3_000, true) else { panic!("nothing at {from}") };
        assert_eq!(chunk.data, numbered(from as usize, chunk.data.len()), "at {from} of {start} to {end}");
        assert!(!chunk.data.is_empty() && position == from + chunk.data.len() as u64);
        assert_eq!(u64::from(chunk.tag), 1 + from / 100_000 % 2, "at {from}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_memory_has_no_room_for_is_read_from_disk() {
    let budget = budget(2 << 20, 64 << 20);
    let log = Log::new(8 << 20, Overflow::Truncate, &budget);
    let mut done = 0;
    while done < 30_000_000 {
        log.append(1 + (done / 100_000 % 2) as u8, numbered(done, 100_000));
        done += 100_000;
        // The ring goes round three times.
        if done % 5_000_000 == 0 {
            check_all(&log, 99_991);
        }
    }
    let (start, end) = log.range();
    assert_eq!((start, end), (30_000_000 - (8 << 20), 30_000_000));
    assert!(log.cost() <= 2 << 20 && budget.disk().available() >= 56 << 20);
    check_all(&log, 9_973);
    drop(log);
    assert_eq!(budget.disk().available(), 64 << 20, "a spool goes away with its log");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_costs_retention_alone() {
    let budget = budget(2 << 20, 3_000_000);
    let log = Log::new(64 << 20, Overflow::Truncate, &budget);
    for n in 0..200 {
        log.append(1 + (n % 2) as u8, numbered(n * 100_000, 100_000));
        check_all(&log, 70_001);
    }
    let (start, end) = log.range();
    assert!(end == 20_000_000 && (4_500_000..5_200_000).contains(&(end - start)), "{start} {end}");
    // Where there is no place at all it is memory alone.
    let nowhere = Disk::new("/nonexistent".into());
    nowhere.set_limit(64 << 20);
    let log = Log::new(64 << 20, Overflow::Truncate, &Budget::new(2 << 20, nowhere));
    (0..200).for_each(|n| log.append(1, numbered(n * 100_000, 100_000)));
    let (start, end) = log.range();
    assert!((1_800_000..2 << 20).contains(&(end - start)), "{start} {end}");
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_when_disk_and_memory_are_full_and_nothing_held_is_lost() {
    for (disk, least) in [(0, 1 << 20), (6 << 20, 7 << 20), (64 << 20, 16 << 20)] {
        let log = Log::new(16 << 20, Overflow::Block { grace: GRACE }, &budget(2 << 20, disk));
        let hold = log.hold("a", 0).unwrap();
        let (mut done, mut taken) = (0, 0);
        while done < 100_000_000 {
            let Room::Bytes(room) = log.room() else {
                assert!(done as u64 - taken >= least, "it waits at {} with {disk} of disk", done as u64 - taken);
                // The holder takes a part, and the writer goes on.
                let to = taken + 5_000_000;
                while taken < to.min(done as u64) {
                    let Some(Piece::Data(chunk)) = log.read(&mut taken, 1 << 20, true) else { panic!("at {taken}") };
                    let from = taken as usize - chunk.data.len();
                    assert_eq!(chunk.data, numbered(from, chunk.data.len()));
                }
                hold.acknowledge(taken);
                continue;
            };
            let bytes = room.min(1 << 20).min(100_000 - done % 100_000);
            log.append(1 + (done / 100_000 % 2) as u8, numbered(done, bytes));
            done += bytes;
            assert!(log.cost() <= 3 << 20, "{}", log.cost());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closed_logs_leave_the_disk_first_and_the_oldest_before_others() {
    let budget = budget(2 << 20, 16 << 20);
    let new = || Log::new(64 << 20, Overflow::Truncate, &budget);
    let fill = |log: &Log, mebibytes: usize| {
        (0..mebibytes).for_each(|_| log.append(1, Bytes::from(vec![1; 1 << 20])));
    };
    let kept = |log: &Log| (log.range().1 - log.range().0) >> 20;
    let (first, second, open) = (new(), new(), new());
    fill(&first, 6);
    first.close();
    fill(&second, 6);
    second.close();
    assert_eq!((kept(&first), kept(&second)), (6, 6));
    fill(&open, 9);
    assert!(kept(&first) <= 2 && kept(&second) == 6 && kept(&open) == 9, "{}", kept(&first));
    fill(&open, 20);
    assert!(kept(&second) <= 2 && kept(&open) >= 16, "{} {}", kept(&second), kept(&open));
    // One whose holder is there keeps what that needs, though it is closed.
    drop((first, second, open));
    let held = Log::new(64 << 20, Overflow::Block { grace: GRACE }, &budget);
    let _hold = held.hold("a", 0).unwrap();
    fill(&held, 8);
    held.close();
    let open = new();
    fill(&open, 40);
    assert_eq!(held.range().0, 0);
    assert!(kept(&open) >= 8, "{}", kept(&open));
}

#[tokio::test(start_paused = true)]
async fn an_open_log_loses_nothing_while_closed_ones_are_on_disk() {
    // Parts of many sizes, for which whole blocks must be found.
    for largest in [65_537, 1_048_573] {
        let budget = budget(2 << 20, 24 << 20);
        let (mut closed, mut part) = (Vec::new(), 1);
        for round in 0..60 {
            let log = Log::new(64 << 20, Overflow::Truncate, &budget);
            while log.range().1 < 14 << 20 {
                part = part * 75 % largest;
                log.append(1, Bytes::from(vec![1; part]));
                assert_eq!(log.range().0, 0, "at {} of log {round}", log.range().1);
            }
            log.close();
            closed.push(log);
        }
    }
}
