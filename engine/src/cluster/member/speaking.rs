//! What a process tells its name node, in one order whoever tells it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use distdl_storage::Unpoisoned;

use super::{PART_TIME_MAX, Shared, State, lock};
use crate::cluster::chaos::Point;
use crate::cluster::control::{ControlError, Encoded, REPORT_BYTES_MAX};
use crate::cluster::protocol::Report;
use crate::cluster::socket::Socket;
use crate::error::EngineError;

/// What the name node was told last.
#[derive(Debug, Default)]
pub(super) struct Speaker {
    /// The version of what is here for others, 0 for none.
    pub(super) told: u64,
}

impl Shared {
    /// Until it is dropped, nobody else tells the name node anything but that this process lives.
    pub(super) fn speaker(&self) -> MutexGuard<'_, Speaker> {
        self.speaking.lock().unpoisoned()
    }

    /// Tells the name node; false if this process was killed instead. What cannot be said now is said again when it is
    /// back, or it knows by the silence.
    pub(super) fn report(&self, report: &Report) -> bool {
        if lock(self).control.is_none() {
            return true;
        }
        let Some(encoded) = self.encode(report) else {
            return false;
        };
        // Others wait only while it is sent.
        let _turn = self.speaker();
        self.send_report(encoded);
        true
    }

    /// The same, for who says more than this in one turn.
    pub(super) fn say(&self, _: &mut Speaker, report: &Report) -> bool {
        if lock(self).control.is_none() {
            return true;
        }
        let encoded = self.encode(report);
        let lives = encoded.is_some();
        encoded.into_iter().for_each(|encoded| self.send_report(encoded));
        lives
    }

    /// A sign of life comes in no order, and waits for nobody who says more than this.
    pub(super) fn report_at_once(&self, report: &Report) {
        let Some(encoded) = self.encode(report) else { return };
        let state = lock(self);
        let control = state.control.clone().or_else(|| state.found.clone());
        drop(state);
        self.send_to(control, encoded);
    }

    /// `None` if this process was killed instead.
    fn encode(&self, report: &Report) -> Option<Result<Encoded, ControlError>> {
        let counted = !matches!(report, Report::Heartbeat { .. });
        if counted && !self.reach(Point::Report(self.reports.fetch_add(1, Ordering::Relaxed))) {
            return None;
        }
        let encoded = match Encoded::new(report, REPORT_BYTES_MAX) {
            Err(error @ ControlError::TooLong { .. }) => match report.in_its_place(&error.to_string()) {
                Some(report) => Encoded::new(&report, REPORT_BYTES_MAX),
                None => Err(error),
            },
            encoded => encoded,
        };
        Some(encoded)
    }

    fn send_report(&self, encoded: Result<Encoded, ControlError>) {
        let control = lock(self).control.clone();
        self.send_to(control, encoded);
    }

    fn send_to(&self, control: Option<Arc<Socket>>, encoded: Result<Encoded, ControlError>) {
        let Some(control) = control else { return };
        let _sending = self.sending.lock().unpoisoned();
        if let Err(error) = encoded.and_then(|encoded| encoded.send(&*control)) {
            // The control thread notices a connection that has failed, and ends it here if it has not.
            tracing::debug!("a report could not be sent: {error}");
            control.shutdown();
        }
    }

    /// Says the last word and waits until it is confirmed: a name node that dies before may have heard it or not.
    /// Returns whether this process was a member until then, and an error was heard.
    pub(super) fn take_leave(&self, last: &Report) -> bool {
        // Or it is said twice to a name node that is found again just now.
        let mut speaker = self.speaker();
        let mut state = lock(self);
        state.last = Some(last.clone());
        self.changed.notify_all();
        if state.closed.is_some() {
            return false;
        }
        drop(state);
        // Without a connection it is said on the next one.
        if !self.say(&mut speaker, last) {
            return false;
        }
        drop(speaker);
        let patience = self.join.name_node_grace.max(PART_TIME_MAX);
        let stays = |state: &mut State| state.closed.is_none();
        let waited = self.changed.wait_timeout_while(lock(self), patience, stays);
        let heard = waited.unpoisoned().0.heard;
        self.close("it has left");
        heard || matches!(last, Report::Leave { error: None })
    }
}

/// Ends the action that a cluster is at.
pub(crate) struct Canceller(pub(super) Arc<Shared>);

impl Canceller {
    /// Ends the action with `error` in all processes, unless it is over.
    pub(crate) fn cancel(&self, action: u64, error: EngineError) {
        let report = Report::Cancel { action, error };
        let mut state = lock(&self.0);
        // A handle may be late: what is said again to another name node is what ends the action that runs.
        let is_late = matches!(&state.cancel, Some(Report::Cancel { action: known, .. }) if *known > action);
        if !is_late {
            state.cancel = Some(report.clone());
        }
        drop(state);
        self.0.report(&report);
    }
}
