//! Processes that are killed or stopped from outside, by their number, at moments that are drawn.

use rustix::process::Signal;

use crate::cluster::{Cluster, Draw, Place};

const THREE: &str = "--processes=3";

/// Runs a cluster in which one of `slots` is killed at a drawn step, so many times.
fn survives_a_kill(times: usize, slots: std::ops::Range<u64>) {
    let mut draw = Draw::new();
    for _ in 0..times {
        let place = Place::new();
        let mut cluster = Cluster::start(&place, &[THREE]);
        cluster.parent.wait_for_step(draw.step());
        let lost = cluster.strike(draw.slot(slots.clone()), Signal::KILL);
        cluster.ends_as_undisturbed(&[lost]);
    }
}

#[test]
fn a_killed_worker_changes_nothing() {
    survives_a_kill(3, 1..3);
}

#[test]
fn the_killed_first_process_changes_nothing() {
    survives_a_kill(3, 0..1);
}

#[test]
fn two_killed_at_once_change_nothing() {
    let mut draw = Draw::new();
    for _ in 0..2 {
        let place = Place::new();
        let mut cluster = Cluster::start(&place, &[THREE]);
        cluster.parent.wait_for_step(draw.step());
        let survivor = draw.slot(0..3);
        let others = (0..3).filter(|slot| *slot != survivor);
        let lost: Vec<u32> = others.map(|slot| cluster.strike(slot, Signal::KILL)).collect();
        cluster.ends_as_undisturbed(&lost);
    }
}

#[test]
fn all_killed_at_once_begin_again() {
    let place = Place::new();
    let mut cluster = Cluster::start(&place, &[THREE]);
    cluster.parent.wait_for_step(Draw::new().step());
    let lost: Vec<u32> = (0..3).map(|slot| cluster.strike(slot, Signal::KILL)).collect();
    cluster.ends_as_undisturbed(&lost);
}

#[test]
fn kills_during_the_recovery_from_a_kill_change_nothing() {
    let mut draw = Draw::new();
    for _ in 0..2 {
        let place = Place::new();
        let mut cluster = Cluster::start(&place, &[THREE]);
        cluster.parent.wait_for_step(draw.step());
        let first = draw.slot(0..3);
        let second = (first + 1 + draw.slot(0..2)) % 3;
        let mut lost = vec![cluster.strike(first, Signal::KILL)];
        cluster.wait_for_loss(lost[0]);
        lost.push(cluster.strike(second, Signal::KILL));
        cluster.wait_for_loss(lost[1]);
        // The one that came instead of the first, as soon as it has.
        lost.push(cluster.strike(first, Signal::KILL));
        cluster.ends_as_undisturbed(&lost);
    }
}

#[test]
fn a_stopped_process_is_found_by_its_silence() {
    let mut draw = Draw::new();
    let place = Place::new();
    let mut cluster = Cluster::start(&place, &[THREE, "--lease=2000", "--restarts=64"]);
    cluster.parent.wait_for_step(draw.step());
    let lost = cluster.strike(draw.slot(0..3), Signal::STOP);
    let cause = cluster.wait_for_loss(lost)["cause"].to_string();
    assert!(cause.contains("nothing was heard of it"), "{cause}");
    cluster.ends_as_undisturbed(&[lost]);
}

#[test]
fn processes_for_parameters_and_for_lanes_may_be_killed() {
    let mut draw = Draw::new();
    for slot in [2, 0] {
        let place = Place::new();
        let mut cluster = Cluster::start(&place, &[THREE, "--parameter-workers=1"]);
        cluster.parent.wait_for_step(draw.step());
        let lost = cluster.strike(slot, Signal::KILL);
        cluster.ends_as_undisturbed(&[lost]);
    }
}

#[test]
fn without_restarts_the_others_go_on_alone() {
    let mut draw = Draw::new();
    let place = Place::new();
    let mut cluster = Cluster::start(&place, &[THREE, "--restarts=0"]);
    cluster.parent.wait_for_step(draw.step());
    let slot = draw.slot(0..3);
    let lost = cluster.strike(slot, Signal::KILL);
    let parent = cluster.ends_as_undisturbed(&[lost]);
    assert!(
        !parent.events().any(|event| event["again"] == true),
        "{}",
        parent.shown()
    );
    let others: Vec<u32> = (0..3).filter(|other| *other != slot).collect();
    assert_eq!(parent.generation(), others);
}

/// Programs in which a process is killed, until a spare has taken a place.
const PROGRAMS_MIN: usize = 3;
const PROGRAMS_MAX: usize = 12;

#[test]
fn a_spare_takes_the_place_of_one_that_is_killed() {
    let mut draw = Draw::new();
    let mut taken_in = false;
    let mut programs = 0;
    // A spare that is slow to come to the action finds the program finished.
    while programs < PROGRAMS_MIN || !taken_in {
        let place = Place::new();
        let mut cluster = Cluster::start(&place, &[THREE, "--spares=1", "--restarts=0"]);
        (0..4).for_each(|slot| assert_ne!(cluster.process_in(slot), 0));
        cluster.parent.wait_for_step(draw.step());
        let members = cluster.parent.generation();
        let lost = cluster.strike(members[draw.below(3) as usize], Signal::KILL);
        let parent = cluster.ends_as_undisturbed(&[lost]);
        let losses = parent.events().filter(|event| event["event"] == "lost").count();
        assert_eq!(losses, 1, "somebody else suffers:\n{}", parent.shown());
        let slots = parent.generation();
        assert_ne!(slots, members, "{}", parent.shown());
        taken_in |= slots.len() == 3;
        programs += 1;
        assert!(
            taken_in || programs < PROGRAMS_MAX,
            "in {programs} programs no spare was taken in before the end; the last one:\n{}",
            parent.shown()
        );
    }
}
