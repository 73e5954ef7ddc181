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
        let ShardValues { before, after, state } = &mut guard.values();
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
    values: Vec<f32>,
    previous: Option<Vec<f32>>,
    next: Vec<Option<f32>>,
    /// In which of the two buffers the newest version is.
    buffer: bool,
}

#[derive(Debug, Clone)]
enum Act {
    Claim { ahead: u64, range: Range<usize> },
    Finish(usize),
    Drop(usize),
    Read { back: u64 },
    Release(usize),
    Rewind { back: u64 },
    Begin(u64),
    Install(u64),
}

const LENGTH: usize = 6;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let range = (0..LENGTH, 0..=LENGTH).prop_map(|(start, length)| start..(start + length).min(LENGTH));
    let act = prop_oneof![
        8 => (prop_oneof![9 => Just(1), 1 => 0..3u64], range).prop_map(|(ahead, range)| Act::Claim { ahead, range }),
        8 => (0..9usize).prop_map(Act::Finish),
        2 => (0..9usize).prop_map(Act::Drop),
        2 => (0..3u64).prop_map(|back| Act::Read { back }),
        2 => (0..9usize).prop_map(Act::Release),
        1 => (0..3u64).prop_map(|back| Act::Rewind { back }),
        1 => (0..9u64).prop_map(Act::Begin),
        1 => (0..9u64).prop_map(Act::Install),
    ];
    prop::collection::vec(act, 0..120)
}

/// Guards that are held, with what they must show.
struct Held<'a> {
    claims: Vec<(RangeGuard<'a>, f32)>,
    /// The last is the buffer.
    reads: Vec<(ReadGuard<'a>, Vec<f32>, bool)>,
}

impl Held<'_> {
    /// Whether somebody reads what the next version is to be written over.
    fn block(&self, model: &Model) -> bool {
        self.reads.iter().any(|(_, _, buffer)| *buffer != model.buffer)
    }
}

impl Model {
    fn version(&self, back: u64) -> Option<&Vec<f32>> {
        match back {
            0 => Some(&self.values),
            1 => self.previous.as_ref(),
            _ => None,
        }
    }

    fn completed(&mut self) {
        if self.next.iter().all(Option::is_some) {
            let next = self.next.iter_mut().map(|value| value.take().unwrap()).collect();
            self.previous = Some(std::mem::replace(&mut self.values, next));
            self.newest += 1;
            self.buffer = !self.buffer;
        }
    }

    fn forget_next(&mut self) {
        self.next = vec![None; LENGTH];
    }
}

fn take(model: &mut Model, held: &mut Held<'_>, parameters: &Parameters, act: &Act, number: f32) {
    assert_eq!(parameters.version(), model.newest);
    let before = model.newest - u64::from(model.previous.is_some());
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
            let wanted = model.version(*back).filter(|_| free).cloned();
            let version = model.newest.wrapping_sub(*back);
            assert_eq!(parameters.rewind(version).is_ok(), wanted.is_some());
            if let Some(values) = wanted {
                model.forget_next();
                model.previous = model.previous.take().filter(|_| *back == 0);
                (model.values, model.newest) = (values, version);
                model.buffer ^= *back == 1;
            }
        }
        Act::Begin(version) => {
            assert_eq!(parameters.begin(*version).is_ok(), free);
            if free {
                model.forget_next();
                model.previous = model.previous.take().filter(|_| *version == model.newest);
                model.newest = *version;
            }
        }
        Act::Install(version) => {
            let blocked = held.block(model);
            let whole = parameters.install(*version);
            assert_eq!(whole.is_ok(), free && !blocked);
            if free {
                model.forget_next();
            }
            if let Ok(mut whole) = whole {
                filled(&mut whole, number);
                assert!(whole.finish());
                model.previous = None;
                model.buffer = !model.buffer;
                (model.values, model.newest) = (vec![number; LENGTH], *version);
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_does_what_copies_would_do(acts in acts()) {
        let parameters = Parameters::new(vec![-1.0; LENGTH]);
        let (values, next) = (vec![-1.0; LENGTH], vec![None; LENGTH]);
        let mut model = Model { newest: 0, values, previous: None, next, buffer: false };
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
                        prop_assert_eq!(guard.values().before, &model.values[range.clone()]);
                        filled(&mut guard, number);
                        held.claims.push((guard, number));
                        model.previous = None;
                    }
                }
                Act::Read { back } => {
                    let guard = parameters.read(model.newest.wrapping_sub(*back));
                    prop_assert_eq!(guard.is_ok(), model.version(*back).is_some());
                    if let Ok(guard) = guard {
                        let buffer = model.buffer ^ (*back == 1);
                        held.reads.push((guard, model.version(*back).unwrap().clone(), buffer));
                    }
                }
                act => take(&mut model, &mut held, &parameters, act, number),
            }
            for (guard, values, _) in &held.reads {
                prop_assert_eq!(&**guard, values.as_slice());
            }
            prop_assert_eq!(&*parameters.latest(), model.values.as_slice());
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
