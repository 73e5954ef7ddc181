//! The name node against simulated clusters.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

mod process;
mod world;

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
    let iterate = (0..9_u64, any::<bool>()).prop_map(|(steps, stateful)| Step::Iterate { steps, stateful });
    vec(prop_oneof![compute, iterate], 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

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
