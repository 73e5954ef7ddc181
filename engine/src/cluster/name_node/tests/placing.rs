//! Where lanes and tasks go: they stay while they can, and leave what is slow.

use super::*;

/// Lanes that a round was begun with, by rank.
fn lanes(world: &World) -> Vec<u32> {
    let work = world.log.iter().rev().find_map(|entry| match entry {
        LogEntry::Began { work, .. } => Some(work.clone()),
        _ => None,
    });
    match work {
        Some(Work::Loop { lanes, .. }) => lanes,
        other => panic!("no loop runs: {other:?}"),
    }
}

/// A cluster in the midst of a loop.
fn in_a_loop(options: Options, steps: u64) -> World {
    let program = vec![Step::Iterate {
        steps,
        stateful: false,
        timed: false,
    }];
    let mut world = World::new(options, program);
    while !world.processes[0].versions.contains_key(&5) && world.finished.is_none() {
        world.everybody_moves();
    }
    world
}

#[test]
fn lanes_stay_where_they_are_when_another_process_takes_a_place() {
    let mut world = in_a_loop(options(3, 1), 500);
    assert_eq!(lanes(&world), [0, 0, 1, 1, 2]);
    let spare = world
        .processes
        .iter()
        .position(|process| process.round.is_none())
        .unwrap();
    let killed = world.processes.iter().position(|process| process.slot == 1).unwrap();
    world.kill(killed);
    let is_in_loop = |world: &World| {
        let round = world.processes[spare].round.as_ref();
        round.is_some_and(|round| matches!(round.work, Work::Loop { .. }))
    };
    while !is_in_loop(&world) && world.finished.is_none() {
        world.everybody_moves();
    }
    // By rank: the third process has come to the second place, and the spare is behind it.
    assert_eq!(lanes(&world), [0, 0, 1, 2, 1]);
}

/// Time passes in which the processes of each slot say how long a lane takes them.
fn beat(world: &mut World, micros: [u64; 2]) {
    world.now += Duration::from_millis(400);
    for number in 0..world.processes.len() {
        let process = &world.processes[number];
        let lane_micros = Some(micros[process.slot as usize]);
        if process.alive {
            world.say(
                number,
                vec![Report::Heartbeat {
                    step: None,
                    lane_micros,
                    job: None,
                }],
            );
        }
    }
    (0..10).for_each(|_| _ = world.everybody_moves());
}

#[test]
fn lanes_leave_a_process_that_takes_much_longer() {
    let mut world = in_a_loop(options(2, 0), 5000);
    assert_eq!(lanes(&world), [0, 0, 0, 1, 1]);
    (0..5).for_each(|_| beat(&mut world, [100, 130]));
    assert_eq!(world.node.generation.number, 1, "that is not worth it");
    beat(&mut world, [300, 100]);
    assert_eq!(world.node.generation.number, 2);
    assert_eq!(lanes(&world), [0, 1, 1, 1, 1]);
    (0..5).for_each(|_| beat(&mut world, [300, 100]));
    assert_eq!(world.node.generation.number, 2, "once is enough");
}

#[test]
fn the_pause_between_moves_is_forgotten_with_the_processes_that_it_was_for() {
    let mut world = in_a_loop(options(2, 0), 50_000);
    while lanes(&world) != [0, 1, 1, 1, 1] {
        beat(&mut world, [300, 100]);
    }
    let killed = world.processes.iter().position(|process| process.slot == 1).unwrap();
    world.kill(killed);
    let moved_at = world.now;
    let newest = world.processes.len();
    let is_in_loop = |world: &World| {
        let round = world.processes.get(newest).and_then(|process| process.round.as_ref());
        round.is_some_and(|round| matches!(round.work, Work::Loop { .. }))
    };
    while !is_in_loop(&world) && world.finished.is_none() {
        world.everybody_moves();
    }
    assert_eq!(
        lanes(&world),
        [0, 0, 0, 1, 1],
        "nothing is known of the one that takes its place"
    );
    (0..4).for_each(|_| beat(&mut world, [300, 100]));
    assert_eq!(lanes(&world), [0, 1, 1, 1, 1], "{:?} later", world.now - moved_at);
}

/// Noise, or a slowness that wanders, cannot keep them moving.
#[test]
fn lanes_move_ever_more_rarely() {
    let mut world = in_a_loop(options(2, 0), 500_000);
    let (mut moved_at, mut generation) = (Vec::new(), 1);
    for _ in 0..200 {
        let slower = lanes(&world).iter().filter(|rank| **rank == 0).count() < 3;
        beat(&mut world, if slower { [100, 1000] } else { [1000, 100] });
        if std::mem::replace(&mut generation, world.node.generation.number) < world.node.generation.number {
            moved_at.push(world.now);
        }
    }
    let pauses: Vec<u64> = moved_at.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses, [2, 4, 8, 16, 32]);
}

#[test]
fn tasks_are_dealt_by_the_time_that_they_took() {
    let costs = |tasks: [(u64, u64); 2]| {
        let program = vec![Step::Compute { partitions: 4 }, Step::Compute { partitions: 4 }];
        let mut world = World::new(options(2, 0), program);
        for process in &mut world.processes {
            process.tasks = tasks[process.slot as usize];
        }
        while world.processes[0].at == 0 || world.processes[0].round.is_none() {
            world.everybody_moves();
        }
        match &world.processes[0].round.as_ref().unwrap().work {
            Work::Compute { costs, .. } => costs.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(costs([(10, 100_000), (10, 900_000)]), [10_000, 90_000]);
    let nothing = Vec::<u64>::new();
    assert_eq!(costs([(10, 100_000), (10, 190_000)]), nothing, "that is no difference");
    assert_eq!(costs([(10, 1_000), (10, 900_000)]), nothing, "too short to tell");
}
