//! Signals that ask a process to end, and those that it was started to ignore.

use std::process::Command;

use rustix::process::Signal;

use crate::cluster::{Cluster, Draw, Place};
use crate::running::send_signal;

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
