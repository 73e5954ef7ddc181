//! What a round of a loop goes on from, and what a process has of it.

use super::super::diverged;
use super::super::history::History;
use crate::cluster::origins::{Origin, Origins};
use crate::cluster::protocol::{LoopStart, LoopState};
use crate::cluster::resume::of_history;
use crate::dataflow::exchange::Exchange;
use crate::error::Result;
use crate::iteration::Iteration;
use crate::parameters::Parameters;

/// What this process could go on from.
pub(super) fn what_is_here((iteration, parameters): (&Iteration, &Parameters), history: &History) -> LoopState {
    match history.beginning {
        Some(_) => Exchange::beginning(parameters, iteration),
        None => Exchange::state(parameters, iteration, &history.origins),
    }
}

/// Where a process stands as a round begins.
pub(super) struct Basis {
    /// Whether it has the version that is gone on from; else it is given it.
    pub(super) has: bool,
    /// What made the versions that it has by then.
    pub(super) origins: Origins,
}

/// Brings what is here into line with what the others go on from, before the round is entered: if that is cut by then,
/// what is reported is what it was to begin with. None if the name node is mistaken about what is here.
pub(super) fn basis(
    round: Origin,
    own: Option<usize>,
    start: &LoopStart,
    (iteration, parameters): (&Iteration, &Parameters),
    history: &mut History,
) -> Result<Option<Basis>> {
    let counted = own.and_then(|rank| start.states.get(rank)).ok_or_else(diverged)?;
    let source = start.source.and_then(|rank| start.states.get(rank as usize));
    let given = source.map(|source| &source.origins).ok_or_else(diverged)?;
    let here = of_history(&what_is_here((iteration, parameters), history), given);
    if here.versions != counted.versions {
        return Ok(None);
    }
    let has = !start.is_lacked_by(counted);
    match &history.beginning {
        Some(beginning) if has => beginning.install(parameters, start.version)?,
        _ if has => parameters.rewind(start.version)?,
        _ => forget_others(parameters, &here, &history.origins, given)?,
    }
    let mut origins = if has { history.origins.clone() } else { given.clone() };
    if !iteration.staleness.is_determinate() {
        origins.go_on(start.version, round);
    }
    if has {
        history.rewind(start.version);
        history.origins = origins.clone();
    }
    Ok(Some(Basis { has, origins }))
}

/// Forgets what is here of another history than the one that is given next. `here` is what is of that one.
fn forget_others(parameters: &Parameters, here: &LoopState, own: &Origins, given: &Origins) -> Result<()> {
    let newest = parameters.version();
    // The state of the next version may be here already, and the others may count on it.
    if [newest, newest + 1]
        .iter()
        .all(|version| own.of(*version) == given.of(*version))
    {
        return Ok(());
    }
    parameters.rewind(here.versions.last().copied().unwrap_or(newest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::staleness::Staleness;

    const LAST: Origin = (1, 0);

    /// A process in a loop that depends on time, whose parameters are at `version`, with state of the next one already.
    fn process(version: u64, rounds: &[(u64, Origin)]) -> (Iteration, Parameters, History) {
        let iteration = Iteration::new(1, 20).with_shards(1).with_state_slots(1);
        let iteration = iteration.with_staleness(Staleness::Bounded(1));
        let parameters = Parameters::with_state(vec![0.0; 2], 1).unwrap().with_lag(1);
        let mut history = History::new(0, true);
        rounds
            .iter()
            .for_each(|(version, round)| history.origins.go_on(*version, *round));
        for step in 1..=version {
            parameters.claim(step, 0..2).unwrap().finish_with_state();
        }
        let mut next = parameters.claim(version + 1, 0..1).unwrap();
        next.after().fill(1.0);
        next.finish_with_state();
        (iteration, parameters, history)
    }

    /// What the process would go on from in round (9, 9), where another one gives a version of these rounds.
    fn stands(
        (iteration, parameters, history): &mut (Iteration, Parameters, History),
        version: u64,
        given: &[(u64, Origin)],
    ) -> Option<Basis> {
        let mut source = LoopState {
            versions: vec![version],
            ..LoopState::default()
        };
        given
            .iter()
            .for_each(|(version, round)| source.origins.go_on(*version, *round));
        let own = of_history(&what_is_here((iteration, parameters), history), &source.origins);
        let start = LoopStart {
            version,
            source: Some(0),
            states: vec![source, own],
        };
        basis((9, 9), Some(1), &start, (iteration, parameters), history).unwrap()
    }

    #[test]
    fn who_has_the_version_goes_back_to_it() {
        let mut process = process(6, &[(0, LAST)]);
        let basis = stands(&mut process, 5, &[(0, LAST)]).unwrap();
        assert!(basis.has && process.1.version() == 5);
        assert_eq!([5, 6].map(|version| basis.origins.of(version)), [LAST, (9, 9)]);
        assert_eq!(process.2.origins, basis.origins);
    }

    #[test]
    fn who_is_one_version_behind_keeps_its_state_of_the_next() {
        let mut process = process(6, &[(0, LAST)]);
        let basis = stands(&mut process, 7, &[(0, LAST)]).unwrap();
        assert!(!basis.has);
        assert_eq!(process.1.state_versions(&(0..1)), [6, 7]);
        assert_eq!(process.2.origins.of(7), LAST, "nothing is given yet");
    }

    #[test]
    fn what_was_begun_in_another_round_is_forgotten() {
        let mut process = process(6, &[(0, LAST), (6, (2, 1))]);
        assert!(!stands(&mut process, 7, &[(0, LAST)]).unwrap().has);
        assert_eq!((process.1.version(), process.1.state_versions(&(0..1))), (6, vec![6]));
    }

    #[test]
    fn who_went_on_otherwise_goes_back_to_what_is_the_same() {
        let mut process = process(6, &[(0, LAST), (5, (2, 1))]);
        assert!(!stands(&mut process, 7, &[(0, LAST)]).unwrap().has);
        assert_eq!(process.1.version(), 5);
    }

    #[test]
    fn a_name_node_that_is_mistaken_is_told() {
        let (iteration, parameters, mut history) = process(6, &[(0, LAST)]);
        let mut nothing = LoopState::default();
        nothing.origins.go_on(0, LAST);
        let start = LoopStart {
            version: 6,
            source: Some(0),
            states: vec![nothing],
        };
        assert!(
            basis((9, 9), Some(0), &start, (&iteration, &parameters), &mut history)
                .unwrap()
                .is_none()
        );
        assert_eq!(parameters.version(), 6);
    }
}
