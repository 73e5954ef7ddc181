//! Signals that ask a process to end: what it takes along, where it is the first of a container too, and what it was
//! started to ignore.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use rustix::process::Signal;

use crate::by_hand::{distdl, worker_command};
use crate::cluster::{Cluster, Draw, Place};
use crate::running::{Running, send_signal};

/// `words`, which run the command that follows them.
fn behind(words: &[&str], command: &Command) -> Command {
    let mut before = Command::new(words[0]);
    before
        .args(&words[1..])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => before.env(name, value),
            None => before.env_remove(name),
        };
    }
    before.current_dir(command.get_current_dir().unwrap());
    before
}

#[test]
fn what_a_process_was_started_to_ignore_does_not_end_its_cluster() {
    let place = Place::new();
    let ignoring = ["sh", "-c", "trap '' HUP INT; exec \"$@\"", "sh"];
    let command = place.command(&["--processes=3", "--events=/dev/stderr"]);
    let mut cluster = Cluster::of(&place, &mut behind(&ignoring, &command));
    cluster.parent.wait_for_step(Draw::new().step());
    for signal in [Signal::HUP, Signal::INT] {
        send_signal(cluster.parent.child.id(), signal);
    }
    let parent = cluster.ends_as_undisturbed(&[]);
    assert!(
        parent.events().all(|event| event["event"] != "lost"),
        "{}",
        parent.shown()
    );
}

/// What comes of a signal people have asked for.
#[test]
fn a_cluster_that_a_signal_ends_tells_of_no_losses() {
    let place = Place::new();
    let _gate = place.close_gate();
    let mut parent = Running::start(&mut place.command(&["--processes=3"]));
    parent.wait_for_step(Draw::new().step());
    send_signal(parent.child.id(), Signal::TERM);
    assert_eq!(parent.end().code(), Some(143), "{}", parent.shown());
    let said = ["lost member", "starting a new process"];
    assert!(
        !said.iter().any(|said| parent.shown().contains(said)),
        "{}",
        parent.shown()
    );
}

fn wait_for_blocks(place: &Place, running: &mut Running) {
    running.wait_for(|line| line.starts_with("epoch 3 ").then_some(()));
    let folders = place.temporary();
    assert!(
        folders.iter().any(|name| name.starts_with("distdl-blocks-")),
        "{folders:?}"
    );
}

#[test]
fn one_process_that_a_signal_ends_takes_its_blocks_along() {
    let place = Place::new();
    let _gate = place.close_gate();
    let mut running = Running::start(&mut place.command(&["--processes=1"]));
    wait_for_blocks(&place, &mut running);
    send_signal(running.child.id(), Signal::TERM);
    assert_eq!(running.end().signal(), Some(15), "{}", running.shown());
    assert_eq!(place.temporary(), Vec::<String>::new());
}

const FIRST: [&str; 4] = ["unshare", "--user", "--pid", "--kill-child"];

/// Whether this system lets its users make the first process of a container.
fn has_containers() -> bool {
    let made = Command::new(FIRST[0]).args(&FIRST[1..]).arg("true").output();
    let has = made.is_ok_and(|made| made.status.success());
    if !has {
        eprintln!("skipped: this system lets nobody `unshare --user --pid`");
    }
    has
}

/// The one child of a process.
fn child_of(process: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
    children.trim().parse().unwrap()
}

/// The system gives the first process of a container no default for signals.
#[test]
fn the_first_process_of_a_container_ends_with_a_signal_and_takes_its_blocks_along() {
    if !has_containers() {
        return;
    }
    let place = Place::new();
    let _gate = place.close_gate();
    let mut running = Running::start(&mut behind(&FIRST, &place.command(&["--processes=1"])));
    wait_for_blocks(&place, &mut running);
    send_signal(child_of(running.child.id()), Signal::TERM);
    assert_eq!(running.end().code(), Some(143), "{}", running.shown());
    assert_eq!(place.temporary(), Vec::<String>::new());
}

#[test]
fn a_name_node_and_a_worker_that_are_first_in_containers_end_with_a_signal() {
    if !has_containers() {
        return;
    }
    let place = Place::new();
    let name = ["name", "--listen=127.0.0.1:0", "--folder=journal"];
    let flags = ["--processes=2", "--events=/dev/stderr"];
    let mut name_node = Running::start(&mut behind(&FIRST, &distdl(&place, &[&name[..], &flags].concat())));
    let address = name_node.wait_for(|line| line.strip_prefix("name node at ").map(str::to_owned));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap().to_string();
    drop(free);
    // One waits for another worker, the other one for its name node.
    let mut waits = Running::start(&mut behind(&FIRST, &worker_command(&place, &address, &[])));
    let mut looks = Running::start(&mut behind(&FIRST, &worker_command(&place, &nobody, &[])));
    name_node.wait_for(|line| line.contains("\"joined\"").then_some(()));
    looks.wait_for(|line| line.contains("trying again for 30s").then_some(()));
    for running in [&mut looks, &mut waits, &mut name_node] {
        send_signal(child_of(running.child.id()), Signal::TERM);
        assert_eq!(running.end().code(), Some(143), "{}", running.shown());
    }
}
