//! Processes of several hosts, over TCP. The other hosts are this one by other addresses, and `ssh` is a script that
//! runs the command it is given with nothing of its own environment but what the tests need.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::cluster::{Cluster, Draw, Place};
use crate::program;
use crate::running::Running;

/// It leaves a line for each call, with the host.
const SHELL: &str = r#"#!/bin/sh
echo "$1" >> called
exec env -i PATH="$PATH" TMPDIR="$TMPDIR" PROCESSES_TEST_ARGUMENTS="$PROCESSES_TEST_ARGUMENTS" sh -c "$2"
"#;

/// One process here and two on another host.
fn launch(place: &Place) -> Cluster {
    Cluster::of(place, &mut command(place, &[]))
}

fn command(place: &Place, arguments: &[&str]) -> Command {
    let shell = place.path("shell");
    std::fs::write(&shell, SHELL).unwrap();
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(place.path("hosts"), "localhost\n127.0.0.2 slots=2\n").unwrap();
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_distdl")));
    let flags = [
        "--hosts=hosts",
        "--ssh=./shell",
        "--listen=127.0.0.1:0",
        "--events=/dev/stderr",
    ];
    command.arg("launch").args(flags).arg("--").args(program::as_words());
    place.adopt(&mut command);
    program::with_arguments(&mut command, &place.arguments(arguments));
    command
}

fn called(place: &Place) -> Vec<String> {
    let calls = std::fs::read_to_string(place.path("called")).unwrap();
    calls.lines().map(str::to_owned).collect()
}

#[test]
fn processes_of_two_hosts_come_to_what_one_process_comes_to() {
    let place = Place::new();
    launch(&place).ends_as_undisturbed(&[]);
    assert_eq!(called(&place), ["127.0.0.2", "127.0.0.2"]);
}

#[test]
fn an_error_that_all_processes_end_with_is_said_once() {
    let place = Place::new();
    let mut parent = Running::start(&mut command(&place, &["--panics"]));
    assert_eq!(parent.end().code(), Some(1), "{}", parent.shown());
    let errors = parent.seen.iter().filter(|line| line.starts_with("error: "));
    let errors: Vec<&String> = errors.collect();
    assert_eq!(
        errors,
        ["error: the program panicked: it was told to"],
        "{}",
        parent.shown()
    );
    assert!(place.is_quiet());
}

#[test]
fn a_killed_process_of_another_host_is_started_there_again() {
    let (mut draw, place) = (Draw::new(), Place::new());
    let mut cluster = launch(&place);
    cluster.parent.wait_for_step(draw.step());
    let slot = draw.slot(1..3);
    let lost = cluster.strike(slot, Signal::KILL);
    cluster.wait_for_loss(lost);
    assert_ne!(cluster.process_in(slot), lost);
    cluster.ends_as_undisturbed(&[lost]);
    assert_eq!(called(&place).len(), 3);
}
