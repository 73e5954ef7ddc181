//! Faults on purpose, where a member comes to the points that they are planned for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use crate::cluster::chaos::{Fault, Point};

/// What becomes of a process that is to be killed or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The process gets a signal.
    Signal,
    /// It is one of several logical processes in a test, and drops out of the cluster without a word.
    #[cfg_attr(
        not(any(test, feature = "testing")),
        expect(dead_code, reason = "only tests have such processes")
    )]
    Vanish,
}

impl Fate {
    fn carry_out(self, fault: Fault, shared: &Shared) {
        match self {
            Self::Signal => fault.carry_out(),
            Self::Vanish => shared.close("it was killed"),
        }
    }
}

/// Ends a membership without a word to anybody.
#[cfg(any(test, feature = "testing"))]
#[derive(Clone)]
pub(crate) struct Vanish(std::sync::Weak<Shared>);

#[cfg(any(test, feature = "testing"))]
impl Vanish {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }

    /// Ends it now.
    pub(crate) fn vanish(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.close("it was killed");
        }
    }

    /// Whether the membership lasts.
    pub(crate) fn is_member(&self) -> bool {
        self.0
            .upgrade()
            .is_some_and(|shared| super::lock(&shared).closed.is_none())
    }
}

/// Points at which faults may be planned.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

impl std::fmt::Debug for Faults {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Faults")
    }
}

impl Faults {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::clone(shared))
    }

    /// Carries out the faults that are planned for a point.
    pub fn reach(&self, point: Point) {
        self.0.reach(point);
    }

    /// Notes how long a lane's step took; the name node is told with the next heartbeat.
    pub fn lane_took(&self, time: Duration) {
        let last = &self.0.lane_micros;
        let micros = (time.as_micros() as u64).max(1);
        let mean = |old: u64| {
            if old == 0 {
                micros
            } else {
                (old * 7 + micros).div_ceil(8)
            }
        };
        // Of two workers that measure at the same time, either will do.
        last.store(mean(last.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// Notes that a step begins: the name node is told with the next heartbeat, and faults may be planned for it.
    pub fn begin_step(&self, step: u64) {
        self.0.progress.store(step + 1, Ordering::Relaxed);
        self.0.reach(Point::Step(step));
    }
}

impl Shared {
    /// Carries out the fault that is planned for a point, if there is one. Returns whether this process goes on.
    pub(super) fn reach(&self, point: Point) -> bool {
        match self.chaos.fires(point) {
            None => return true,
            Some(Fault::Cut { peer_slot }) => {
                self.cut_link(peer_slot);
                return true;
            }
            Some(fault) => self.fate.carry_out(fault, self),
        }
        false
    }
}
