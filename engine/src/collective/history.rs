//! What a process keeps of the steps of an iteration, and what it tells one that comes late.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{diverged, unreadable};
use crate::cluster::control::ANSWER_BYTES_MAX;
use crate::cluster::origins::Origins;
use crate::dataflow::observer::Observer;
use crate::error::{EngineError, Result};
use crate::iteration::{Iteration, StepReport, Tallies};
use crate::parameters::Parameters;

/// What a process that comes after an iteration needs to know of it.
#[derive(Serialize, Deserialize)]
pub(super) struct Iterated {
    values: Values,
    pub(super) reports: Vec<StepReport>,
}

/// What an iteration comes to at most, in bytes; an error if that could not be sent to a process that comes late: found
/// before the first step rather than behind the last. So there is a limit to what reports of steps take in memory, too.
pub(super) fn check_length(iteration: &Iteration, parameters: &Parameters) -> Result<u64> {
    let values = parameters.len() as u64 * (1 + parameters.slots() as u64) * size_of::<f32>() as u64;
    // Of a step its number, seven bits a byte, and its tallies.
    let step = u64::from(u64::BITS - iteration.last_step().leading_zeros()).div_ceil(7) + size_of::<Tallies>() as u64;
    let bytes = iteration.steps.saturating_mul(step).saturating_add(values);
    if bytes <= ANSWER_BYTES_MAX {
        return Ok(bytes);
    }
    Err(EngineError::invalid(
        format!(
            "an iteration of {} steps over {} parameters comes to {bytes} bytes, and processes can tell each other \
             {ANSWER_BYTES_MAX}",
            iteration.steps,
            parameters.len()
        ),
        "run it in several calls of fewer steps, which count whether or not they are taken; parameters and an optimizer's state of a training that many processes take part \
         in have to fit, too",
    ))
}

impl Iterated {
    pub(super) fn install(&self, parameters: &Parameters, version: u64) -> Result<()> {
        self.values.install(parameters, version)
    }
}

/// A copy of parameters and of what optimizers keep beside them.
#[derive(Serialize, Deserialize)]
pub(super) struct Values {
    parameters: Vec<f32>,
    /// Optimizer state, slot after slot.
    state: Vec<f32>,
}

impl Values {
    /// Of the newest version.
    pub(super) fn of(parameters: &Parameters) -> Self {
        let latest = parameters.latest();
        let slots = (0..parameters.slots()).filter_map(|slot| latest.state(slot));
        Self {
            parameters: latest.to_vec(),
            state: slots.flatten().copied().collect(),
        }
    }

    pub(super) fn install(&self, parameters: &Parameters, version: u64) -> Result<()> {
        let (length, slots) = (parameters.len(), parameters.slots());
        if self.parameters.len() != length || self.state.len() != length * slots {
            return Err(diverged());
        }
        let mut whole = parameters.install(version)?;
        whole.after().copy_from_slice(&self.parameters);
        whole.finish();
        for (slot, state) in self.state.chunks_exact(length).enumerate() {
            parameters.install_state(version, slot, 0, state)?;
        }
        Ok(())
    }
}

/// The steps that were applied, and how many of them the driver program has seen.
pub(super) struct History {
    first_step: u64,
    pub(super) reports: Vec<StepReport>,
    shown: usize,
    /// Whether a step is shown only when the one behind it is applied. Then whoever keeps the state of its version has
    /// it, so that it is never taken again, whichever process dies.
    delays: bool,
    /// Of the versions that are here, where another round would have made others of the same number.
    pub(super) origins: Origins,
    /// What the iteration began with, where it can only start over from there.
    pub(super) beginning: Option<Values>,
}

impl History {
    pub(super) fn new(first_step: u64, delays: bool) -> Self {
        Self {
            first_step,
            reports: Vec::new(),
            shown: 0,
            delays,
            origins: Origins::default(),
            beginning: None,
        }
    }

    /// A step is applied here. It counts once: one that was taken again has the same report.
    pub(super) fn note(&mut self, report: &StepReport, observer: &mut Observer<'_>) -> Result<()> {
        match self.keep(report) {
            true => self.show(self.reports.len() - usize::from(self.delays), observer),
            false => Ok(()),
        }
    }

    /// The same of a step before parameters of which too few are here to go on from: it is shown once they are, since
    /// it may yet be taken again. Whether it counts.
    pub(super) fn keep(&mut self, report: &StepReport) -> bool {
        let is_next = report.step == self.first_step + self.reports.len() as u64;
        if is_next {
            self.reports.push(*report);
        }
        is_next
    }

    /// The iteration is over: nothing is taken again.
    pub(super) fn show_all(&mut self, observer: &mut Observer<'_>) -> Result<()> {
        self.show(self.reports.len(), observer)
    }

    fn show(&mut self, count: usize, observer: &mut Observer<'_>) -> Result<()> {
        while self.shown < count {
            observer.show(&self.reports[self.shown])?;
            self.shown += 1;
        }
        Ok(())
    }

    /// The parameters are another process's from now on, and so is what made them. It tells of all steps before them:
    /// those known here may be of another history. Not before the parameters are here, or what is here would lack its
    /// steps where it is gone on from after all.
    pub(super) fn replace(&mut self, origins: Origins) {
        self.rewind(self.first_step);
        self.origins = origins;
    }

    /// Forgets steps that will be taken again.
    pub(super) fn rewind(&mut self, version: u64) {
        let kept = version.saturating_sub(self.first_step) as usize;
        self.reports.truncate(kept.max(self.shown));
    }

    pub(super) fn result(&self, parameters: &Parameters) -> Result<Bytes> {
        let result = Iterated {
            values: Values::of(parameters),
            reports: self.reports.clone(),
        };
        let bytes = postcard::to_stdvec(&result).map_err(|error| unreadable::<Iterated>(&error))?;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::iteration::Tallies;

    fn report(step: u64, history: f64) -> StepReport {
        let tallies = Tallies([history, 0.0, 0.0, 0.0]);
        StepReport { step, tallies }
    }

    /// Each step is seen once, in order, whichever history goes on.
    #[test]
    fn a_history_that_is_replaced_goes_on_from_what_was_shown() {
        let mut history = History::new(10, true);
        let mut seen: Vec<StepReport> = Vec::new();
        let mut observe = |shown: &StepReport| seen.push(*shown);
        let mut observer = Observer::new(&Iteration::new(1, 1), &mut observe);
        (10..15)
            .try_for_each(|step| history.note(&report(step, 1.0), &mut observer))
            .unwrap();
        assert_eq!(
            history.shown, 4,
            "the last one is not shown as long as it may be taken again"
        );
        history.replace(Origins::default());
        assert_eq!(history.reports.len(), 4);
        (10..17)
            .try_for_each(|step| history.note(&report(step, 2.0), &mut observer))
            .unwrap();
        history.show_all(&mut observer).unwrap();
        let expected = (10..17).map(|step| report(step, if step < 14 { 1.0 } else { 2.0 }));
        assert_eq!(seen, expected.collect::<Vec<_>>());
        assert_eq!(seen, history.reports);
    }
}
