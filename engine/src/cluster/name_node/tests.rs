//! The name node against simulated clusters.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::cluster::arithmetic::Arithmetic;
use crate::cluster::identity::{Address, Role};
use crate::cluster::protocol::Outcome;

mod cache_directory;
mod drawn;
mod endings;
mod joining;
mod journal_full;
mod newcomers;
mod placing;
mod process;
mod restarted;
mod rounds;
mod waiting;
mod world;

use limits::LISTED_MAX;
use process::Step;
use world::World;

fn options(processes: u32, spares: u32) -> Options {
    Options {
        processes,
        spares,
        restarts_max: 10_000,
        ..Options::default()
    }
}

#[test]
fn a_program_runs_to_its_end() {
    let program = vec![
        Step::Compute { partitions: 5 },
        Step::Iterate {
            steps: 4,
            stateful: true,
            timed: false,
        },
    ];
    let mut world = World::new(options(3, 1), program);
    world.run_to_the_end();
    assert_eq!(world.finished, Some(None));
    assert_eq!(
        world.node.generation.number, 1,
        "nothing happened that would take another generation"
    );
}

#[test]
fn a_name_node_that_comes_back_lets_the_round_go_on_in_its_generation() {
    let mut world = World::new(
        options(3, 0),
        vec![Step::Iterate {
            steps: 30,
            stateful: false,
            timed: false,
        }],
    );
    while !world.processes.iter().any(|process| process.versions.contains_key(&5)) {
        world.everybody_moves();
    }
    world.crash();
    let goes_on = Happening::WentOn {
        action: 0,
        members: 3,
        error: None,
    };
    assert_eq!(world.notes.iter().filter(|note| **note == goes_on).count(), 1);
    world.run_to_the_end();
    assert_eq!(world.finished, Some(None));
    assert_eq!(world.node.generation.number, 1);
}

/// What it would have said of the link was lost with the name node, and of what it has computed it reports all.
#[test]
fn a_link_that_broke_as_the_name_node_died_ends_the_generation() {
    for step in [
        Step::Compute { partitions: 40 },
        Step::Iterate {
            steps: 30,
            stateful: false,
            timed: false,
        },
    ] {
        for breaking in [vec![0], vec![0, 1], vec![0, 1, 2]] {
            let mut world = World::new(options(3, 0), vec![step]);
            while !world.processes.iter().all(|process| process.round.is_some()) {
                world.everybody_moves();
            }
            breaking.iter().for_each(|number| world.break_link(*number, 0));
            world.crash();
            world.run_to_the_end();
            assert_eq!(world.finished, Some(None));
            assert_eq!(world.node.generation.number, 2, "{breaking:?}");
        }
    }
}

/// To try to make one may take longer than a lease, as where what is sent to a port is swallowed on the way.
#[test]
fn a_link_that_can_never_be_made_costs_a_member_and_one_that_stands_for_long_in_between_does_not() {
    let mut world = World::new(options(3, 0), vec![Step::Compute { partitions: 40 }]);
    let lease = world.node.options.lease;
    let (never, for_long) = ((Duration::ZERO, 1), (2 * lease, 2));
    let failures = [never, for_long, for_long, never, for_long, for_long, never];
    for ((stood, number), generation) in failures.into_iter().zip(1..) {
        assert!(!is_lost(&world), "before generation {generation}");
        world.begin_generation(generation);
        world.wait(2 * lease);
        world.break_link_that_stood(stood, number, 0);
    }
    while !is_lost(&world) && world.everybody_moves() {}
    let cause = world.notes.iter().find_map(|note| match note {
        Happening::Lost { slot: 1, cause, .. } => Some(cause.clone()),
        _ => None,
    });
    assert!(cause.unwrap().contains("links failed"));
    world.run_to_the_end();
    assert_eq!(world.finished, Some(None));
}

#[test]
fn links_that_fail_long_apart_cost_nobody() {
    let mut world = World::new(options(2, 0), vec![Step::Compute { partitions: 40 }]);
    for generation in 1..=5 {
        world.begin_generation(generation);
        world.wait(Duration::from_secs(130));
        world.break_link(1, 0);
    }
    world.run_to_the_end();
    assert!(!is_lost(&world));
    assert_eq!(world.finished, Some(None));
}

fn is_lost(world: &World) -> bool {
    let lost = |note: &Happening| matches!(note, Happening::Lost { .. });
    world.notes.iter().any(lost)
}

#[test]
fn losses_while_a_cut_round_ends_cost_one_generation() {
    let mut world = World::new(
        options(4, 0),
        vec![Step::Iterate {
            steps: 30,
            stateful: false,
            timed: false,
        }],
    );
    while !world.processes.iter().all(|process| process.versions.contains_key(&5)) {
        world.everybody_moves();
    }
    world.kill(1);
    world.kill(2);
    world
        .audible()
        .into_iter()
        .for_each(|connection| world.hear(connection));
    let alone = |world: &World| world.node.generation.members.len() == 2;
    while !alone(&world) {
        world.everybody_moves();
    }
    assert_eq!(world.node.generation.number, 2);
    world.run_to_the_end();
    assert_eq!(world.finished, Some(None));
}

#[test]
fn driver_programs_that_diverge_get_an_error_that_names_both_places() {
    let mut world = World::new(options(2, 0), vec![Step::Compute { partitions: 2 }]);
    world.processes[1].fingerprint_of_another_program();
    world.run_to_the_end();
    let error = world.finished.unwrap().unwrap();
    let words = "diverged at action 0: slot 0 (process 1) and slot 1 (process 1) are both at action 0 of the test, but what \
                 it reads, or what it was given, is not the same";
    assert!(error.contains(words), "{error}");
    let sentences = world.notes.iter().cloned();
    let said: Vec<String> = sentences
        .filter_map(|what| ClusterEvent::new(Duration::ZERO, what).sentence())
        .collect();
    let expected = [0, 1].map(|n| format!("member {n} (slot {n}) gave up: an action failed, in all processes alike"));
    assert_eq!(said, expected, "the end of the cluster says it");
    assert_eq!(
        world.processes.len(),
        2,
        "nobody is started again for an error that all have"
    );
}

#[test]
fn a_member_ends_the_action_that_the_cluster_is_at_and_no_other() {
    let program = vec![Step::Iterate {
        steps: 30,
        stateful: false,
        timed: false,
    }];
    let mut world = World::new(options(3, 0), program);
    let cancel = |action| Report::Cancel {
        action,
        error: EngineError::Cancelled {
            action: "an action".to_owned(),
            reason: "by the test".to_owned(),
        },
    };
    while !world.processes.iter().all(|process| process.versions.contains_key(&5)) {
        world.everybody_moves();
    }
    world.say(1, vec![cancel(1)]);
    (0..5).for_each(|_| _ = world.everybody_moves());
    assert_eq!(world.finished, None);
    world.say(1, vec![cancel(0), cancel(0)]);
    world.run_to_the_end();
    let error = world.finished.unwrap().unwrap();
    assert!(error.contains("by the test"), "{error}");
    assert_eq!(world.processes.len(), 3, "nobody is started again for it");
}

#[test]
fn one_that_fails_by_itself_is_started_again_as_the_others_go_on() {
    let mut world = World::new(
        options(2, 0),
        vec![Step::Iterate {
            steps: 500,
            stateful: false,
            timed: false,
        }],
    );
    world.processes[1].fails_with = Some("no such file".to_owned());
    while !world.processes[0].versions.contains_key(&5) {
        world.everybody_moves();
    }
    assert_eq!(
        world.processes.len(),
        2,
        "not at once: the others may be about to fail too"
    );
    world.pass(Duration::from_millis(100));
    world.tick();
    world.run_to_the_end();
    assert_eq!(world.finished, Some(None));
    assert_eq!(world.processes.len(), 3);
    assert_eq!(world.node.generation.members.len(), 2, "it was taken in");
}

#[test]
fn a_member_that_is_never_heard_of_is_lost_with_its_lease() {
    let mut world = World::new(options(2, 1), vec![Step::Compute { partitions: 6 }]);
    while world.processes.iter().all(|process| process.round.is_none()) {
        world.everybody_moves();
    }
    world.processes[0].hung = true;
    world.run_to_the_end();
    assert_eq!(world.finished, Some(None));
    assert!(
        world
            .notes
            .iter()
            .any(|note| matches!(note, Happening::Lost { slot: 0, .. }))
    );
}

#[test]
fn a_member_that_says_something_long_lives_as_long_as_parts_of_it_come() {
    let lease = options(1, 0).lease;
    for signs in [true, false] {
        let mut node = NameNode::new(options(1, 0), Duration::ZERO);
        node.start(Duration::ZERO);
        let (connection, mut now) = (ConnectionId(0), Duration::ZERO);
        let report = Report::join(None, None, "there");
        node.handle(now, Event::Reported { connection, report });
        for _ in 0..8 {
            now += lease / 2;
            if signs {
                node.handle(now, Event::Heard { connection });
            }
            node.handle(now, Event::Tick);
        }
        assert_eq!(node.members.is_empty(), !signs);
    }
}

#[test]
fn state_that_nobody_keeps_any_more_is_an_error_where_nobody_comes_and_else_the_loop_starts_over() {
    for restarts_max in [0, 10] {
        let program = vec![Step::Iterate {
            steps: 30,
            stateful: true,
            timed: false,
        }];
        let mut world = World::new(
            Options {
                restarts_max,
                ..options(3, 0)
            },
            program,
        );
        while !world.processes.iter().all(|process| process.versions.contains_key(&5)) {
            world.everybody_moves();
        }
        // The owner of the first shard and its second holder.
        for slot in [0, 1] {
            let process = world.processes.iter().position(|process| process.slot == slot).unwrap();
            world.kill(process);
        }
        world.run_to_the_end();
        let error = world.finished.unwrap();
        match restarts_max {
            0 => assert!(error.unwrap().contains("optimizer state was lost")),
            _ => assert_eq!(error, None),
        }
    }
}

/// One process is a step ahead and thought dead; the other takes that step again, and it comes to something else.
#[test]
fn who_comes_back_with_a_version_of_another_history_is_turned_away() {
    let program = vec![Step::Iterate {
        steps: 30,
        stateful: true,
        timed: true,
    }];
    let options = Options {
        restarts_max: 0,
        ..options(2, 0)
    };
    let lease = options.lease;
    let mut world = World::new(options, program);
    let has = |world: &World, number: usize| world.processes[number].versions.contains_key(&5);
    while !has(&world, 0) {
        if world.processes.iter().any(|process| !process.versions.contains_key(&4)) {
            world.everybody_moves();
        } else {
            world.step(0);
        }
    }
    assert!(!has(&world, 1));
    let ahead = world.processes[0].versions[&5];
    world.processes[0].hung = true;
    world.break_link(1, 0);
    // A name node kills only what it has started itself.
    world.crash();
    for _ in 0..400 {
        if has(&world, 1) {
            break;
        }
        if !world.everybody_moves() {
            world.pass(lease / 4);
            world.tick();
        }
    }
    assert_ne!(world.processes[1].versions[&5], ahead);
    world.processes[0].hung = false;
    for _ in 0..400 {
        world.step(0);
        // It has no time for another step.
        if !world.processes[1].inbox.is_empty() {
            world.step(1);
        }
        let audible = world.audible();
        audible.into_iter().for_each(|connection| world.hear(connection));
    }
    assert!(!world.processes[0].alive);
    assert_eq!(world.node.generation.number, 2, "it costs the other nothing");
    world.run_to_the_end();
    assert_eq!(world.finished, Some(None));
}

/// One thing that happens, of what can happen.
fn happen(world: &mut World, (kind, which): (u8, u8)) {
    let which = usize::from(which);
    let pick = |list: &[usize]| (!list.is_empty()).then(|| list[which % list.len()]);
    let running = world.running();
    match kind {
        0..=99 => {
            if let Some(number) = pick(&running) {
                world.step(number);
            }
        }
        100..=199 => {
            let audible = world.audible();
            if !audible.is_empty() {
                world.hear(audible[which % audible.len()]);
            }
        }
        200..=214 => {
            world.everybody_moves();
        }
        215..=219 => {
            world.reap();
        }
        220..=227 => {
            if let Some(number) = pick(&running) {
                world.kill(number);
            }
        }
        228..=230 => {
            if let Some(number) = pick(&running) {
                world.processes[number].hung = true;
            }
        }
        231..=236 => {
            if let Some(number) = pick(&running) {
                world.break_link(number, which / 7);
            }
        }
        237..=240 => world.crash_after = Some(which % 12),
        241..=248 => world.pass(Duration::from_millis(which as u64)),
        249..=253 => {
            world.pass(Duration::from_millis(20 * which as u64));
            world.tick();
        }
        254.. => world.tick(),
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let compute = (0..7_u64).prop_map(|partitions| Step::Compute { partitions });
    let iterate = (0..9_u64, any::<bool>(), any::<bool>()).prop_map(|(steps, stateful, timed)| Step::Iterate {
        steps,
        stateful,
        timed,
    });
    vec(prop_oneof![compute, iterate], 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_program_ends_with_the_right_answers(
        processes in 1..5_u32,
        spares in 0..2_u32,
        grace in prop_oneof![3 => Just(0), 1 => 1..3000_u64],
        program in steps(),
        story in vec((any::<u8>(), any::<u8>()), 0..400),
    ) {
        let grace = Duration::from_millis(grace);
        let mut world = World::new(Options { grace, ..options(processes, spares) }, program);
        for event in story {
            if world.finished.is_none() {
                happen(&mut world, event);
            }
        }
        world.run_to_the_end();
        prop_assert_eq!(&world.finished, &Some(None));
    }
}
