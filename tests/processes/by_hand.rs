//! A name node and workers that are started one by one, and a name node that is killed and started again.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::cluster::{Draw, Place, undisturbed};
use crate::program;
use crate::running::{Running, send_signal};

pub(crate) fn distdl(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_distdl")));
    command.args(arguments);
    place.adopt(&mut command);
    command
}

/// A name node for three processes; its journal is in the folder `journal` of the place.
fn name_node(place: &Place, listen: &str) -> (Running, String) {
    let flags = ["--processes=3", "--events=/dev/stderr"];
    let command = ["name", "--listen", listen, "--folder=journal"];
    let mut running = Running::start(&mut distdl(place, &[&command[..], &flags].concat()));
    let address = running.wait_for(|line| line.strip_prefix("name node at ").map(str::to_owned));
    (running, address)
}

fn worker(place: &Place, name_node: &str, slot: &str, life: &str) -> Running {
    worker_with(place, name_node, &["--slot", slot, "--life", life])
}

fn worker_with(place: &Place, name_node: &str, flags: &[&str]) -> Running {
    Running::start(&mut worker_command(place, name_node, flags))
}

pub(crate) fn worker_command(place: &Place, name_node: &str, flags: &[&str]) -> Command {
    let words = program::as_words();
    let program: Vec<&str> = words.iter().map(String::as_str).collect();
    let worker = ["worker", "--name", name_node];
    let mut command = distdl(place, &[&worker, flags, &["--"], &program].concat());
    program::with_arguments(&mut command, &place.arguments(&[]));
    command
}

fn ends_as_undisturbed(mut running: Running) {
    let status = running.end();
    assert!(status.success(), "{}", running.shown());
    assert!(running.printed() == undisturbed(), "{}", running.shown());
}

#[test]
fn workers_that_are_there_first_wait_for_their_name_node() {
    let place = Place::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let mut workers: Vec<Running> = ["0", "1", "2"].map(|slot| worker(&place, &address, slot, "0")).into();
    for worker in &mut workers {
        worker.wait_for(|line| line.contains("trying again for 30s").then_some(()));
    }
    let (mut name_node, _) = name_node(&place, &address);
    workers.into_iter().for_each(ends_as_undisturbed);
    assert!(name_node.end().success(), "{}", name_node.shown());
}

#[test]
fn one_that_may_compute_other_bits_than_the_others_is_not_let_in() {
    let place = Place::new();
    let (mut name_node, address) = name_node(&place, "127.0.0.1:0");
    let mut workers = vec![worker(&place, &address, "0", "0"), worker(&place, &address, "1", "0")];
    for _ in &workers {
        name_node.wait_for(|line| line.contains("\"joined\"").then_some(()));
    }
    let mut unlike = worker_command(&place, &address, &["--slot", "2", "--life", "0"]);
    let mut unlike = Running::start(unlike.env("DISTDL_UNLIKE_MACHINES", "true"));
    assert!(!unlike.end().success());
    let shown = unlike.shown();
    assert!(
        shown.contains("computes other bits") && shown.contains("unlike_machines"),
        "{shown}"
    );
    workers.push(worker(&place, &address, "2", "0"));
    workers.into_iter().for_each(ends_as_undisturbed);
    assert!(name_node.end().success(), "{}", name_node.shown());
}

#[test]
fn a_killed_name_node_goes_on_from_its_journal() {
    let mut draw = Draw::new();
    let place = Place::new();
    let gate = place.close_gate();
    let (mut first, address) = name_node(&place, "127.0.0.1:0");
    let mut workers: Vec<Running> = ["0", "1", "2"].map(|slot| worker(&place, &address, slot, "0")).into();
    workers[1].wait_for_step(draw.step());
    send_signal(first.child.id(), Signal::KILL);
    assert!(!first.end().success());

    let (mut second, again) = name_node(&place, &address);
    assert_eq!(again, address);
    drop(gate);
    workers.into_iter().for_each(ends_as_undisturbed);
    assert!(second.end().success(), "{}", second.shown());
    let known = second.events().filter(|event| event["known"] == true).count();
    assert_eq!(known, 3, "{}", second.shown());
    assert!(place.is_quiet());
}

#[test]
fn a_killed_worker_is_replaced_by_hand() {
    let mut draw = Draw::new();
    let place = Place::new();
    let gate = place.close_gate();
    let (mut name_node, address) = name_node(&place, "127.0.0.1:0");
    let mut workers: Vec<Running> = ["0", "1", "2"].map(|slot| worker(&place, &address, slot, "0")).into();
    workers[0].wait_for_step(draw.step());
    let mut killed = workers.remove(draw.slot(1..3) as usize);
    send_signal(killed.child.id(), Signal::KILL);
    assert!(!killed.end().success());
    let slot_of = |line: &str, what: &str| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        (event["event"] == what).then(|| event["slot"].to_string())
    };
    let lost = name_node.wait_for(|line| slot_of(line, "lost"));

    workers.push(worker(&place, &address, &lost, "1"));
    let joined = name_node.wait_for(|line| slot_of(line, "joined"));
    assert_eq!(joined, lost);
    drop(gate);
    workers.into_iter().for_each(ends_as_undisturbed);
    assert!(name_node.end().success(), "{}", name_node.shown());
    assert!(place.is_quiet());
}

/// Nobody else can end a process of another host whose driver program does not come to its next action.
#[test]
fn a_process_whose_cluster_is_gone_ends_although_its_program_does_not() {
    let place = Place::new();
    let _gate = place.close_gate();
    let (mut name_node, address) = name_node(&place, "127.0.0.1:0");
    let flags = ["--name-grace=100"];
    let mut workers = [0, 1, 2].map(|_| worker_with(&place, &address, &flags));
    for worker in &mut workers {
        worker.wait_for(|line| line.starts_with("epoch 3 ").then_some(()));
    }
    send_signal(name_node.child.id(), Signal::KILL);
    assert!(!name_node.end().success());
    for mut worker in workers {
        assert_eq!(worker.end().code(), Some(1), "{}", worker.shown());
        assert!(worker.shown().contains("did not end within 5s"), "{}", worker.shown());
    }
    assert!(place.is_quiet());
}
