//! What is said of a cluster that waits.

use super::*;

/// Two processes of which one has come to the second action and the other does something else.
fn one_behind() -> World {
    let mut world = World::new(options(2, 0), vec![Step::Compute { partitions: 2 }; 2]);
    while world.node.last_answered.is_none() {
        assert!(world.everybody_moves());
    }
    while world.node.action.is_none() {
        world.step(0);
        for connection in world.audible() {
            world.hear(connection);
        }
    }
    world
}

/// Time passes, with heartbeats of both.
fn waits_until(world: &mut World, end: Duration) {
    while world.now < end {
        world.pass(Duration::from_secs(5).min(end - world.now));
        for connection in world.audible() {
            world.hear(connection);
        }
        world.tick();
    }
}

fn told(world: &World) -> Vec<(Vec<u32>, u64, u64)> {
    let told = world.notes.iter().filter_map(|note| match note {
        Happening::Behind {
            slots, action, micros, ..
        } => Some((slots.clone(), *action, micros / 1_000_000)),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_member_that_lives_and_does_not_come_to_an_action_is_named_at_doubling_times() {
    let mut world = one_behind();
    let since = world.now;
    waits_until(&mut world, since + Duration::from_secs(29));
    assert_eq!(told(&world), []);
    waits_until(&mut world, since + Duration::from_secs(500));
    let times: Vec<_> = told(&world)
        .into_iter()
        .map(|(slots, action, seconds)| {
            assert_eq!((slots, action), (vec![1], 1));
            seconds
        })
        .collect();
    assert_eq!(times.len(), 5, "{times:?}");
    for (time, due) in times.iter().zip([30, 60, 120, 240, 480]) {
        assert!((due..due + 6).contains(time), "{times:?}");
    }
    world.run_to_the_end();
    assert_eq!((world.finished.clone(), told(&world).len()), (Some(None), 5));
}

#[test]
fn an_action_that_begins_is_an_event_before_that_of_its_answer() {
    let mut world = World::new(options(2, 0), vec![Step::Compute { partitions: 2 }; 2]);
    world.run_to_the_end();
    let events = world.notes.iter().filter_map(|note| match note {
        Happening::Began { action, .. } => Some(("began", *action)),
        Happening::Answered { action, .. } => Some(("answered", *action)),
        _ => None,
    });
    let expected = [("began", 0), ("answered", 0), ("began", 1), ("answered", 1)];
    assert_eq!(events.collect::<Vec<_>>(), expected);
}

#[test]
fn who_does_not_come_for_months_is_still_told_of_at_doubling_times() {
    let mut world = one_behind();
    let since = world.now;
    let mut days = 1;
    while days < 200 {
        // Both are heard, and what is due is told of at once.
        world.pass(since + Duration::from_secs(days * 86_400) - world.now);
        for connection in world.audible() {
            world.hear(connection);
        }
        world.tick();
        days += 1;
    }
    let times = told(&world);
    assert!((6..=12).contains(&times.len()), "{times:?}");
}

#[test]
fn where_nobody_waits_nobody_is_said_to_be_waited_for() {
    let mut world = one_behind();
    let since = world.now;
    // The one that had come is lost, and no other is started in its place.
    world.node.options.starts_processes = false;
    world.kill(0);
    waits_until(&mut world, since + Duration::from_secs(500));
    assert_eq!(told(&world), []);
}
