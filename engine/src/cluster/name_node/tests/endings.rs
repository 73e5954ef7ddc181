//! What is said of processes that end.

use super::joining::{join, says};
use super::*;

/// A cluster in a round, of which the process of slot 1 ends: by itself, or because it is not heard.
fn ends(restarts_max: u32, by_itself: bool) -> World {
    let options = Options {
        restarts_max,
        ..options(2, 0)
    };
    let mut world = World::new(options, vec![Step::Compute { partitions: 40 }]);
    world.begin_generation(1);
    if by_itself {
        world.kill(1);
    } else {
        world.processes[1].hung = true;
    }
    while !is_lost(&world) {
        if !world.everybody_moves() {
            world.pass(world.node.options.lease / 4);
            world.tick();
        }
    }
    let (process, cause) = (Some(1), "killed by signal 9 (SIGKILL)".to_owned());
    world.handle(Event::Exited {
        slot: 1,
        process,
        cause,
    });
    world.run_to_the_end();
    world
}

fn said(world: &World) -> Vec<String> {
    let notes = world.notes.iter().cloned();
    notes
        .filter_map(|what| ClusterEvent::new(Duration::ZERO, what).sentence())
        .collect()
}

#[test]
fn how_a_process_has_ended_is_said_unless_the_name_node_has_ended_it() {
    let killed = "slot 1 (process 1) was killed by signal 9";
    for by_itself in [true, false] {
        let said = said(&ends(3, by_itself));
        assert_eq!(
            said.iter().any(|sentence| sentence.starts_with(killed)),
            by_itself,
            "{said:#?}"
        );
        let again = "starting a new process for slot 1 (2 of 3 restarts are left, `--restarts`)";
        assert!(said.iter().any(|sentence| sentence == again), "{said:#?}");
    }
}

#[test]
fn that_no_process_is_started_any_more_is_said_and_which_option_says_so() {
    let said = said(&ends(0, true));
    let no_more = "no process is started for slot 1 any more: `--restarts 0` is used up";
    assert!(said.iter().any(|sentence| sentence == no_more), "{said:#?}");
    let mut world = World::new(
        Options {
            restarts_max: 0,
            ..options(1, 0)
        },
        vec![Step::Compute { partitions: 40 }],
    );
    world.begin_generation(1);
    world.kill(0);
    world.run_to_the_end();
    let error = world.finished.unwrap().unwrap();
    let words = "none may be started any more (`--restarts 0` is used up); slot 0: ";
    assert!(error.contains(words), "{error}");
}

#[test]
fn where_all_give_up_nobody_is_told_that_restarts_are_used_up() {
    let options = Options {
        restarts_max: 1,
        ..options(4, 0)
    };
    let mut node = NameNode::new(options, Duration::ZERO);
    node.start(Duration::ZERO);
    for slot in 0..4 {
        says(&mut node, slot.into(), join(None, slot));
    }
    let leave = || Report::Leave {
        error: Some("no such file".to_owned()),
    };
    let effects: Vec<Effect> = (0..4).flat_map(|slot| says(&mut node, slot, leave())).collect();
    let no_more = |effect: &&Effect| matches!(effect, Effect::Note(event) if matches!(event.what, Happening::StartsNoMore { .. }));
    assert_eq!(effects.iter().filter(no_more).count(), 0);
}
