#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Barrier;

use proptest::prelude::*;

use super::*;

fn filled(guard: &mut RangeGuard<'_>, value: f32) {
    guard.after().fill(value);
}

fn write(parameters: &Parameters, version: u64, range: Range<usize>, value: f32) -> bool {
    let mut guard = parameters.claim(version, range).unwrap();
    filled(&mut guard, value);
    guard.finish()
}

#[test]
fn a_version_is_seen_when_all_of_it_is_written_and_not_before() {
    let parameters = Parameters::new(vec![0.0; 5]);
    assert!(!write(&parameters, 1, 3..5, 1.0));
    assert!(!write(&parameters, 1, 0..2, 1.0));
    assert_eq!((parameters.version(), parameters.versions()), (0, 0..=0));
    assert!(parameters.read(1).is_err());
    assert_eq!(*parameters.latest(), [0.0; 5]);
    assert!(write(&parameters, 1, 2..3, 2.0));
    assert_eq!((parameters.version(), parameters.versions()), (1, 0..=1));
    assert_eq!(*parameters.read(1).unwrap(), [1.0, 1.0, 2.0, 1.0, 1.0]);
    assert_eq!(*parameters.read(0).unwrap(), [0.0; 5]);
}

#[test]
fn claims_out_of_order_are_refused() {
    let parameters = Parameters::new(vec![0.0; 8]);
    for version in [0, 2, 3, u64::MAX] {
        assert!(parameters.claim(version, 0..8).is_err(), "version {version}");
    }
    for range in [0..0, 4..4, 0..9, 8..9, Range { start: 5, end: 3 }, 7..usize::MAX] {
        assert!(parameters.claim(1, range.clone()).is_err(), "range {range:?}");
    }
    let claimed = parameters.claim(1, 2..4).unwrap();
    write(&parameters, 1, 6..7, 1.0);
    for range in [0..3, 2..4, 3..8, 0..8, 6..7, 5..8] {
        assert!(parameters.claim(1, range.clone()).is_err(), "range {range:?}");
    }
    drop(claimed);
    write(&parameters, 1, 2..4, 1.0);
    write(&parameters, 1, 0..2, 1.0);
    write(&parameters, 1, 4..6, 1.0);
    assert!(write(&parameters, 1, 7..8, 1.0));
    // Who still reads version 0 stands in the way of version 2 and is told so.
    let old = parameters.read(0).unwrap();
    assert!(parameters.claim(2, 0..8).is_err());
    assert_eq!(*old, [0.0; 8]);
    drop(old);
    drop(parameters.claim(2, 0..8).unwrap());
    // It may have been written over.
    assert!(parameters.read(0).is_err());
    assert_eq!(parameters.versions(), 1..=1);
}

#[test]
fn rewinding_forgets_what_came_after() {
    let parameters = Parameters::new(vec![0.0; 3]);
    write(&parameters, 1, 0..3, 1.0);
    parameters.rewind(0).unwrap();
    assert_eq!(parameters.versions(), 0..=0);
    write(&parameters, 1, 0..2, 9.0);
    let claimed = parameters.claim(1, 2..3).unwrap();
    assert!(parameters.rewind(0).is_err());
    assert!(parameters.begin(7).is_err());
    assert!(parameters.install(7).is_err());
    drop(claimed);
    assert!(parameters.rewind(1).is_err());
    parameters.rewind(0).unwrap();
    assert!(write(&parameters, 1, 0..3, 2.0));
    assert_eq!(*parameters.latest(), [2.0; 3]);
    write(&parameters, 2, 0..1, 9.0);
    parameters.begin(10).unwrap();
    assert_eq!(parameters.versions(), 10..=10);
    assert!(write(&parameters, 11, 0..3, 3.0));
    assert_eq!(*parameters.read(10).unwrap(), [2.0; 3]);
    assert_eq!(*parameters.read(11).unwrap(), [3.0; 3]);
}

#[test]
fn an_installed_version_is_the_only_one() {
    let parameters = Parameters::with_state(vec![1.0; 3], 1).unwrap();
    write(&parameters, 1, 0..3, 2.0);
    let mut whole = parameters.install(9).unwrap();
    filled(&mut whole, 9.0);
    assert!(parameters.claim(2, 0..1).is_err());
    drop(whole);
    assert_eq!(
        (parameters.versions(), parameters.latest().to_vec()),
        (1..=1, vec![2.0; 3])
    );
    for version in [2, 0, 9] {
        let mut whole = parameters.install(version).unwrap();
        let mut values = whole.values();
        values.after.fill(version as f32);
        values.state[0].after.fill(0.5);
        assert!(whole.finish());
        assert_eq!(parameters.versions(), version..=version);
        assert_eq!(*parameters.latest(), [version as f32; 3]);
        assert_eq!(parameters.latest().state(0), Some([0.5; 3].as_slice()));
    }
}

#[test]
fn state_goes_from_version_to_version_slot_by_slot() {
    let parameters = Parameters::with_state(vec![1.0; 6], 2).unwrap();
    parameters.install_state(0, 1, 4, &[7.0, 8.0]).unwrap();
    for range in [4..6, 0..4] {
        let mut guard = parameters.claim(1, range.clone()).unwrap();
        let ShardValues {
            before, after, state, ..
        } = &mut guard.values();
        let [first, second] = &mut **state else {
            panic!("two slots")
        };
        assert_eq!((before.len(), first.before.len()), (range.len(), range.len()));
        after.copy_from_slice(before);
        first.after.fill(range.start as f32);
        for (after, before) in second.after.iter_mut().zip(second.before) {
            *after = before + 1.0;
        }
        guard.finish();
    }
    let read = parameters.read(1).unwrap();
    assert_eq!(*read, [1.0; 6]);
    assert_eq!(read.state(0).unwrap(), [0.0, 0.0, 0.0, 0.0, 4.0, 4.0]);
    assert_eq!(read.state(1).unwrap(), [1.0, 1.0, 1.0, 1.0, 8.0, 9.0]);
    assert_eq!(read.state(2), None);
    assert_eq!(
        parameters.read(0).unwrap().state(1).unwrap(),
        [0.0, 0.0, 0.0, 0.0, 7.0, 8.0]
    );
}

#[test]
fn state_that_does_not_fit_or_is_in_use_is_refused() {
    assert!(Parameters::with_state(vec![0.0; 2], STATE_SLOTS_MAX + 1).is_err());
    let parameters = Parameters::with_state(vec![0.0; 4], 1).unwrap();
    assert!(parameters.install_state(1, 0, 0, &[1.0]).is_err());
    assert!(parameters.install_state(0, 1, 0, &[1.0]).is_err());
    assert!(parameters.install_state(0, 0, 4, &[1.0]).is_err());
    assert!(parameters.install_state(0, 0, usize::MAX, &[1.0]).is_err());
    let read = parameters.latest();
    assert!(parameters.install_state(0, 0, 0, &[1.0]).is_err());
    drop(read);
    let claimed = parameters.claim(1, 0..1).unwrap();
    assert!(parameters.install_state(0, 0, 3, &[1.0]).is_err());
    drop(claimed);
    parameters.install_state(0, 0, 3, &[1.0]).unwrap();
    assert_eq!(parameters.latest().state(0).unwrap(), [0.0, 0.0, 0.0, 1.0]);
}

/// The same, by values that are copied.
#[derive(Debug, Clone)]
struct Model {
    newest: u64,
    /// Complete versions, the newest last, each with its buffer.
    versions: Vec<(Vec<f32>, usize)>,
    next: Vec<Option<f32>>,
    buffers: usize,
    /// The buffer of the newest version's state, and whether the one before is whole.
    state: bool,
    previous_state: bool,
}

#[derive(Debug, Clone)]
enum Act {
    Claim { ahead: u64, range: Range<usize> },
    Finish(usize),
    Drop(usize),
    Read { back: u64, with_state: bool },
    Release(usize),
    Rewind { back: u64 },
    Begin(u64),
    Install(u64),
    InstallNext { ahead: u64 },
}

const LENGTH: usize = 6;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let range = (0..LENGTH, 0..=LENGTH).prop_map(|(start, length)| start..(start + length).min(LENGTH));
    let act = prop_oneof![
        8 => (prop_oneof![9 => Just(1), 1 => 0..3u64], range).prop_map(|(ahead, range)| Act::Claim { ahead, range }),
        8 => (0..9usize).prop_map(Act::Finish),
        2 => (0..9usize).prop_map(Act::Drop),
        2 => (0..4u64, any::<bool>()).prop_map(|(back, with_state)| Act::Read { back, with_state }),
        2 => (0..9usize).prop_map(Act::Release),
        1 => (0..4u64).prop_map(|back| Act::Rewind { back }),
        1 => (0..9u64).prop_map(Act::Begin),
        1 => (0..9u64).prop_map(Act::Install),
        1 => prop_oneof![5 => Just(1), 1 => 0..3u64].prop_map(|ahead| Act::InstallNext { ahead }),
    ];
    prop::collection::vec(act, 0..120)
}

/// Guards that are held, with what they must show.
struct Held<'a> {
    claims: Vec<(RangeGuard<'a>, f32)>,
    /// What they show, the buffer, and that of the state.
    reads: Vec<(ReadGuard<'a>, Vec<f32>, usize, Option<bool>)>,
}

impl Held<'_> {
    /// Whether somebody reads what the next version is to be written over.
    fn block(&self, model: &Model) -> bool {
        let next = model.next_buffer();
        let blocks = |(_, _, buffer, state): &(ReadGuard<'_>, Vec<f32>, usize, Option<bool>)| {
            *buffer == next || *state == Some(!model.state)
        };
        self.reads.iter().any(blocks)
    }
}

impl Model {
    fn of(values: Vec<f32>, lag: usize) -> Self {
        Self {
            newest: 0,
            versions: vec![(values, 0)],
            next: vec![None; LENGTH],
            buffers: 2 + lag,
            state: false,
            previous_state: false,
        }
    }

    fn version(&self, back: u64) -> Option<&(Vec<f32>, usize)> {
        self.versions.iter().rev().nth(back as usize)
    }

    fn latest(&self) -> &(Vec<f32>, usize) {
        self.versions.last().unwrap()
    }

    fn next_buffer(&self) -> usize {
        (self.latest().1 + 1) % self.buffers
    }

    fn state_of(&self, back: u64) -> Option<bool> {
        match back {
            0 => Some(self.state),
            1 => self.previous_state.then_some(!self.state),
            _ => None,
        }
    }

    /// The next version is begun.
    fn begun(&mut self) {
        self.previous_state = false;
        let next = self.next_buffer();
        self.versions.retain(|(_, buffer)| *buffer != next);
    }

    fn completed(&mut self) {
        if self.next.iter().all(Option::is_some) {
            let next = self.next.iter_mut().map(|value| value.take().unwrap()).collect();
            self.push(next, self.newest + 1);
        }
    }

    fn push(&mut self, values: Vec<f32>, version: u64) {
        let buffer = self.next_buffer();
        self.versions.push((values, buffer));
        self.newest = version;
        self.state = !self.state;
        self.previous_state = true;
    }

    fn keep_newest(&mut self) {
        self.versions.drain(..self.versions.len() - 1);
        self.previous_state = false;
    }

    fn forget_next(&mut self) {
        self.next = vec![None; LENGTH];
    }
}

fn take(model: &mut Model, held: &mut Held<'_>, parameters: &Parameters, act: &Act, number: f32) {
    assert_eq!(parameters.version(), model.newest);
    let before = model.newest + 1 - model.versions.len() as u64;
    assert_eq!(parameters.versions(), before..=model.newest);
    let free = held.claims.is_empty();
    match act {
        Act::Finish(index) if !free => {
            let (guard, number) = held.claims.remove(index % held.claims.len());
            let range = guard.range();
            model.next[range].fill(Some(number));
            let newest = model.newest;
            model.completed();
            assert_eq!(guard.finish(), model.newest > newest);
        }
        Act::Drop(index) if !free => drop(held.claims.remove(index % held.claims.len())),
        Act::Release(index) if !held.reads.is_empty() => drop(held.reads.remove(index % held.reads.len())),
        Act::Rewind { back } => {
            let possible = free && model.version(*back).is_some();
            let version = model.newest.wrapping_sub(*back);
            assert_eq!(parameters.rewind(version).is_ok(), possible);
            if possible {
                model.forget_next();
                model.versions.truncate(model.versions.len() - *back as usize);
                model.newest = version;
                model.state ^= *back == 1 && model.previous_state;
                model.previous_state &= *back == 0;
            }
        }
        Act::Begin(version) => {
            assert_eq!(parameters.begin(*version).is_ok(), free);
            if free {
                model.forget_next();
                if *version != model.newest {
                    model.keep_newest();
                    model.newest = *version;
                }
            }
        }
        Act::Install(_) | Act::InstallNext { .. } => install(model, held, parameters, act, number),
        _ => {}
    }
}

fn install(model: &mut Model, held: &Held<'_>, parameters: &Parameters, act: &Act, number: f32) {
    let (version, follows, whole) = match act {
        Act::Install(version) => (*version, false, parameters.install(*version)),
        Act::InstallNext { ahead } => (
            model.newest + ahead,
            true,
            parameters.install_next(model.newest + ahead),
        ),
        _ => return,
    };
    let in_order = !follows || version == model.newest + 1;
    let free = held.claims.is_empty() && in_order;
    assert_eq!(whole.is_ok(), free && !held.block(model));
    if free {
        model.forget_next();
    }
    if let Ok(mut whole) = whole {
        filled(&mut whole, number);
        assert!(whole.finish());
        model.begun();
        model.push(vec![number; LENGTH], version);
        if !follows {
            model.keep_newest();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_does_what_copies_would_do(acts in acts(), lag in 0..4usize) {
        let parameters = Parameters::new(vec![-1.0; LENGTH]).with_lag(lag);
        let mut model = Model::of(vec![-1.0; LENGTH], lag);
        let mut held = Held { claims: Vec::new(), reads: Vec::new() };
        for (number, act) in acts.iter().enumerate() {
            let number = number as f32;
            match act {
                Act::Claim { ahead, range } => {
                    let taken = held.claims.iter().any(|(guard, _)| {
                        guard.range().start < range.end && range.start < guard.range().end
                    });
                    let written = model.next[range.clone()].iter().any(Option::is_some);
                    let granted = *ahead == 1 && !range.is_empty() && !taken && !written && !held.block(&model);
                    let guard = parameters.claim(model.newest + ahead, range.clone());
                    prop_assert_eq!(guard.is_ok(), granted);
                    if let Ok(mut guard) = guard {
                        prop_assert_eq!(guard.values().before, &model.latest().0[range.clone()]);
                        filled(&mut guard, number);
                        held.claims.push((guard, number));
                        model.begun();
                    }
                }
                Act::Read { back, with_state } => {
                    let version = model.newest.wrapping_sub(*back);
                    let guard = if *with_state { parameters.read(version) } else { parameters.read_values(version) };
                    prop_assert_eq!(guard.is_ok(), model.version(*back).is_some());
                    if let Ok(guard) = guard {
                        let (values, buffer) = model.version(*back).unwrap().clone();
                        let state = model.state_of(*back).filter(|_| *with_state);
                        held.reads.push((guard, values, buffer, state));
                    }
                }
                act => take(&mut model, &mut held, &parameters, act, number),
            }
            for (guard, values, ..) in &held.reads {
                prop_assert_eq!(&**guard, values.as_slice());
            }
            prop_assert_eq!(&*parameters.latest_values(), model.latest().0.as_slice());
        }
    }
}

#[test]
fn owners_on_many_threads_write_while_lanes_read() {
    const THREADS: usize = 4;
    const STEPS: u64 = if cfg!(miri) { 20 } else { 3_000 };
    let parameters = Parameters::with_state(vec![0.0; 4 * THREADS + 3], 1).unwrap();
    let computed = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for owner in 0..THREADS {
            let (parameters, computed) = (&parameters, &computed);
            scope.spawn(move || {
                let end = if owner + 1 == THREADS {
                    parameters.len()
                } else {
                    4 * owner + 4
                };
                for step in 0..STEPS {
                    while parameters.version() < step {
                        std::thread::yield_now();
                    }
                    let read = parameters.read(step).unwrap();
                    assert!(read.iter().all(|value| *value == step as f32));
                    assert!(read.state(0).unwrap().iter().all(|value| *value == 2.0 * step as f32));
                    drop(read);
                    computed.wait();
                    let mut guard = parameters.claim(step + 1, 4 * owner..end).unwrap();
                    let mut values = guard.values();
                    for (after, before) in values.after.iter_mut().zip(values.before) {
                        *after = before + 1.0;
                    }
                    let slot = &mut values.state[0];
                    for (after, before) in slot.after.iter_mut().zip(slot.before) {
                        *after = before + 2.0;
                    }
                    guard.finish();
                }
            });
        }
    });
    assert_eq!(parameters.versions(), STEPS - 1..=STEPS);
}
