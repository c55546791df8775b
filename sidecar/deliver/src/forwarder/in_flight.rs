//! Records that were sent and are not confirmed, by lane.
//!
//! A lane is what a destination confirms on its own, in order: a partition of a topic; other sinks have one lane. A lane that takes nothing
//! holds up its own records only. The lanes share one window by a dynamic threshold: a lane may hold at most [`SHARE`] times what
//! is free. So one lane alone may fill four fifths of the window, and any number of stuck lanes leaves room for the others.
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// How many times the free part of the window a lane may hold.
const SHARE: usize = 4;
/// A full lane without a confirmation for so long is passed over, so that records of other lanes go on.
const STALL_AFTER: Duration = Duration::from_secs(1);

/// A record in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// Bytes of its text.
    pub(super) bytes: usize,
    /// When the sidecar received it, milliseconds since 1970.
    pub(super) received_ms: u64,
    /// The lane that it is in.
    pub(super) lane: u32,
}

/// How much may be in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Records.
    pub(super) records: usize,
    /// Bytes.
    pub(super) bytes: usize,
}

/// What to do with the next record of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Send it.
    Send,
    /// Wait: records are confirmed soon.
    Wait,
    /// Pass it over, and come back for it.
    PassOver,
}

#[derive(Debug, Default)]
struct Lane {
    count: usize,
    bytes: usize,
    /// The last outcome; or when the first record was sent to the empty lane.
    progress_at: Duration,
    /// A record failed: nothing is sent until all that is in flight in this lane has come back.
    is_draining: bool,
    /// The failure was counted.
    is_counted: bool,
    /// Nothing is sent before.
    retry_at: Duration,
    /// The first record that was passed over or came back.
    rewind_to: Option<u64>,
}

/// All records in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    records: HashMap<u64, Sent>,
    lanes: BTreeMap<u32, Lane>,
    bytes: usize,
    progress_at: Duration,
}

// === impl InFlight ===

impl InFlight {
    /// How many records are in flight.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none is.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether this record is.
    pub(super) fn contains(&self, seq: u64) -> bool {
        self.records.contains_key(&seq)
    }

    /// Whether there is room for a record of a lane. Only asks; [`Self::pass_over`] notes that a record was passed over.
    pub(super) fn room(&self, lane: u32, now: Duration, window: Window) -> Room {
        let Some(held) = self.lanes.get(&lane) else {
            return if self.is_full(window) { Room::Wait } else { Room::Send };
        };
        if held.is_draining || held.rewind_to.is_some() || held.retry_at > now {
            return Room::PassOver;
        }
        let free = (window.records.saturating_sub(self.len()), window.bytes.saturating_sub(self.bytes));
        if held.count < SHARE * free.0 && held.bytes < SHARE.saturating_mul(free.1) {
            return if self.is_full(window) { Room::Wait } else { Room::Send };
        }
        if held.count > 0 && now.saturating_sub(held.progress_at) >= STALL_AFTER { Room::PassOver } else { Room::Wait }
    }

    fn is_full(&self, window: Window) -> bool {
        self.len() >= window.records || self.bytes >= window.bytes
    }

    /// How many lanes take nothing now.
    pub(super) fn closed_lanes(&self, now: Duration) -> usize {
        self.lanes.values().filter(|lane| lane.is_draining || lane.rewind_to.is_some() || lane.retry_at > now).count()
    }

    /// A record of a lane was passed over: those behind it in the lane wait, too.
    pub(super) fn pass_over(&mut self, lane: u32, seq: u64) {
        let lane = self.lanes.entry(lane).or_default();
        lane.rewind_to = Some(lane.rewind_to.map_or(seq, |first| first.min(seq)));
    }

    /// A record was sent.
    pub(super) fn sent(&mut self, seq: u64, sent: Sent, now: Duration) {
        if self.records.is_empty() {
            self.progress_at = now;
        }
        let lane = self.lanes.entry(sent.lane).or_default();
        if lane.count == 0 {
            lane.progress_at = now;
        }
        lane.count += 1;
        lane.bytes += sent.bytes;
        self.bytes += sent.bytes;
        self.records.insert(seq, sent);
    }

    /// A record came back, confirmed or not.
    pub(super) fn back(&mut self, seq: u64, now: Duration) -> Option<Sent> {
        let sent = self.records.remove(&seq)?;
        self.bytes -= sent.bytes;
        if let Some(lane) = self.lanes.get_mut(&sent.lane) {
            lane.count -= 1;
            lane.bytes -= sent.bytes;
            lane.progress_at = now;
        }
        Some(sent)
    }

    /// Something was confirmed.
    pub(super) fn confirmed(&mut self, now: Duration) {
        self.progress_at = now;
    }

    /// How long records have been in flight without any confirmation; zero if none is.
    pub(super) fn silent_for(&self, now: Duration) -> Duration {
        if self.records.is_empty() { Duration::ZERO } else { now.saturating_sub(self.progress_at) }
    }

    /// The lane that has had no outcome for longest, and for how long, if that is a stall.
    pub(super) fn stalled(&self, now: Duration) -> Option<(u32, Duration)> {
        let lasting = |lane: &Lane| now.saturating_sub(lane.progress_at);
        let held = self.lanes.iter().filter(|(_, lane)| lane.count > 0 && lasting(lane) >= STALL_AFTER);
        held.map(|(id, lane)| (*id, lasting(lane))).max_by_key(|(_, lasting)| *lasting)
    }

    /// A record came back undelivered: its lane drains, and goes on from the first such record. True if this is the lane's first failure
    /// since it drained.
    pub(super) fn failed(&mut self, lane: u32, seq: u64, counts: bool) -> bool {
        self.pass_over(lane, seq);
        let Some(lane) = self.lanes.get_mut(&lane) else { return false };
        lane.is_draining = true;
        counts && !std::mem::replace(&mut lane.is_counted, true)
    }

    /// A lane is sent nothing before a time.
    pub(super) fn hold(&mut self, lane: u32, retry_at: Duration) {
        let lane = self.lanes.entry(lane).or_default();
        lane.retry_at = lane.retry_at.max(retry_at);
    }

    /// Ends the drain of each lane whose records have all come back. Whether there was one.
    pub(super) fn end_drains(&mut self) -> bool {
        let mut ended = false;
        for lane in self.lanes.values_mut().filter(|lane| lane.is_draining && lane.count == 0) {
            (lane.is_draining, lane.is_counted) = (false, false);
            ended = true;
        }
        ended
    }

    /// The first record that was passed over in a lane that takes records again; those lanes are open from then on.
    pub(super) fn take_rewind(&mut self, now: Duration, window: Window) -> Option<u64> {
        let half = window.records / (2 * (SHARE + 1));
        let open = |lane: &&mut Lane| !lane.is_draining && lane.retry_at <= now && lane.count <= half;
        self.lanes.values_mut().filter(open).filter_map(|lane| lane.rewind_to.take()).min()
    }

    /// When the next held lane opens.
    pub(super) fn next_retry(&self, now: Duration) -> Option<Duration> {
        self.lanes.values().filter(|lane| lane.rewind_to.is_some()).map(|lane| lane.retry_at).filter(|at| *at > now).min()
    }

    /// Forgets everything, as when the destination changes.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
