//! However a cluster ends, no process, socket or file of it is left.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::sync::mpsc::channel;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::cluster::{Cluster, Draw, Place};
use crate::running::{PATIENCE, Running, send_signal};

const FLAGS: &[&str] = &["--processes=3", "--events=/dev/stderr"];

/// The sockets of a process, by the numbers that the system gives them.
fn sockets(process: u32) -> BTreeSet<String> {
    let entries = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let number = |link: &Path| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    links.filter_map(|link| number(&link)).collect()
}

/// Those of `sockets` that the system still has.
fn still_open(sockets: &BTreeSet<String>) -> Vec<String> {
    let tables = ["/proc/net/unix", "/proc/net/tcp", "/proc/net/tcp6"];
    let tables = tables.iter().filter_map(|table| std::fs::read_to_string(table).ok());
    let lines: Vec<String> = tables
        .flat_map(|table| table.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let has = |line: &String| line.split_whitespace().any(|word| sockets.contains(word));
    lines.into_iter().filter(has).collect()
}

/// What a running cluster has that must be gone with it.
struct Belongings {
    processes: Vec<u32>,
    sockets: BTreeSet<String>,
}

impl Belongings {
    /// Of a cluster that trains.
    fn of(cluster: &mut Cluster) -> Self {
        let mut processes: Vec<u32> = (0..3).map(|slot| cluster.process_in(slot)).collect();
        processes.push(cluster.parent.child.id());
        let sockets: BTreeSet<String> = processes.iter().flat_map(|process| sockets(*process)).collect();
        assert!(!still_open(&sockets).is_empty());
        Self { processes, sockets }
    }

    /// Asked when the parent was waited for, and so were those that it has waited for.
    fn are_gone(&self) {
        let left = self
            .processes
            .iter()
            .filter(|process| Path::new(&format!("/proc/{process}")).exists());
        assert_eq!(left.collect::<Vec<_>>(), Vec::<&u32>::new());
        assert_eq!(still_open(&self.sockets), Vec::<String>::new());
    }
}

#[test]
fn two_clusters_side_by_side_leave_nothing_behind_twice_in_a_row() {
    let mut draw = Draw::new();
    let places = [Place::new(), Place::new()];
    for _ in 0..2 {
        let mut clusters = places.each_ref().map(|place| Cluster::start(place, &["--processes=3"]));
        let mut ends = Vec::new();
        for cluster in &mut clusters {
            cluster.parent.wait_for_step(draw.step());
            let belongings = Belongings::of(cluster);
            ends.push((belongings, cluster.strike(draw.slot(0..3), Signal::KILL)));
        }
        for (cluster, (belongings, lost)) in clusters.into_iter().zip(ends) {
            cluster.ends_as_undisturbed(&[lost]);
            belongings.are_gone();
        }
        for place in &places {
            assert!(place.is_quiet());
            assert_eq!(place.temporary(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_signal_ends_all_and_leaves_nothing_behind() {
    let place = Place::new();
    let mut command = place.command(FLAGS);
    let mut cluster = Cluster::of(&place, command.process_group(0));
    cluster.parent.wait_for_step(Draw::new().step());
    let belongings = Belongings::of(&mut cluster);
    let group = Pid::from_raw(cluster.parent.child.id() as i32).unwrap();
    // Not that of Ctrl-C: who runs tests behind a shell's `&` has them ignore it.
    kill_process_group(group, Signal::TERM).unwrap();
    let status = cluster.parent.end();
    assert_eq!(status.code(), Some(143), "{}", cluster.parent.shown());
    belongings.are_gone();
    assert!(place.is_quiet());
    assert_eq!(place.temporary(), Vec::<String>::new());
}

#[test]
fn a_killed_parent_takes_its_children_along() {
    let place = Place::new();
    let mut cluster = Cluster::start(&place, &["--processes=3"]);
    cluster.parent.wait_for_step(Draw::new().step());
    let belongings = Belongings::of(&mut cluster);
    send_signal(cluster.parent.child.id(), Signal::KILL);
    assert_eq!(cluster.parent.end().signal(), Some(9));
    drop(cluster);
    wait_until_quiet(&place);
    assert_eq!(still_open(&belongings.sockets), Vec::<String>::new());
    // Nobody is left to remove the blocks on disk; the next run does it.
    assert!(place.temporary().iter().all(|name| name.starts_with("distdl-blocks-")));
    Cluster::start(&place, &["--processes=3"]).ends_as_undisturbed(&[]);
    assert_eq!(place.temporary(), Vec::<String>::new());
}

/// Waits for the end of all processes of a place, those that nobody can wait for included.
fn wait_until_quiet(place: &Place) {
    let alive = File::open(place.path("alive")).unwrap();
    let (done, waiting) = channel();
    std::thread::spawn(move || done.send(alive.lock()));
    waiting.recv_timeout(PATIENCE).expect("no process is left").unwrap();
}

#[test]
fn a_program_that_panics_is_not_started_again() {
    let place = Place::new();
    let mut parent = Running::start(&mut place.command(&[FLAGS, &["--panics"]].concat()));
    assert_eq!(parent.end().code(), Some(1), "{}", parent.shown());
    let joined = parent.events().filter(|event| event["event"] == "joined").count();
    assert_eq!(joined, 3, "{}", parent.shown());
    assert!(
        parent.shown().contains("error: the program panicked: it was told to"),
        "{}",
        parent.shown()
    );
    assert!(place.is_quiet());
    assert_eq!(place.temporary(), Vec::<String>::new());
}

#[test]
fn a_program_that_fails_leaves_nothing_behind() {
    let place = Place::new();
    std::fs::remove_file(place.path("gate")).unwrap();
    let mut parent = Running::start(&mut place.command(FLAGS));
    assert_eq!(parent.end().code(), Some(1), "{}", parent.shown());
    assert!(
        parent.printed().last().unwrap().starts_with("epoch 3 "),
        "{}",
        parent.shown()
    );
    assert!(place.is_quiet());
    assert_eq!(place.temporary(), Vec::<String>::new());
}
