//! How far the members are, for people.

use std::collections::HashMap;

use super::Watch;
use crate::cluster::events::Happening;
use crate::cluster::name_node::{ConnectionId, Event};
use crate::cluster::protocol::Report;
use crate::progress::JobProgress;

/// How far each member is with the action that the cluster is at.
pub(super) struct Watched {
    tell: Watch,
    jobs: HashMap<ConnectionId, JobProgress>,
    /// Number of actions that are over.
    answered: u64,
}

impl Watched {
    pub(super) fn new(tell: Watch) -> Self {
        Self {
            tell,
            jobs: HashMap::new(),
            answered: 0,
        }
    }

    pub(super) fn see(&mut self, event: &Event) {
        match event {
            Event::Reported {
                connection,
                report: Report::Heartbeat { job: Some(job), .. },
            } if job.action >= self.answered => {
                self.jobs.insert(*connection, job.clone());
                if let Some(progress) = JobProgress::sum(self.jobs.values()) {
                    (self.tell)(&progress);
                }
            }
            Event::Disconnected { connection } => drop(self.jobs.remove(connection)),
            _ => {}
        }
    }

    pub(super) fn hear(&mut self, what: &Happening) {
        if let Happening::Answered { action, .. } = what {
            self.answered = self.answered.max(action + 1);
            self.jobs.clear();
        }
    }
}
