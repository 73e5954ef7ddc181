//! A cluster whose processes one parent starts, and what must be true of it at its end.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rustix::process::Signal;
use serde_json::Value;

use crate::program;
use crate::running::{Running, send_signal};

/// A folder for temporary files, and two files that tests and processes hold for each other.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.path("temporary")).unwrap();
        File::create(place.path("gate")).unwrap();
        File::create(place.path("alive")).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What the program is told to run here.
    pub(crate) fn arguments(&self, flags: &[&str]) -> Vec<String> {
        let path = |name: &str| format!("--{name}={}", self.path(name).display());
        let flags = flags.iter().map(|flag| (*flag).to_owned());
        flags
            .chain([path("gate"), path("alive"), "--threads=1".to_owned()])
            .collect()
    }

    /// Makes a command one of this place.
    pub(crate) fn adopt(&self, command: &mut Command) {
        command.env("TMPDIR", self.path("temporary")).current_dir(self.0.path());
        // Where the secret of processes that are started by hand is.
        command.env("XDG_RUNTIME_DIR", self.0.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DISTDL_")) {
            command.env_remove(name);
        }
    }

    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = program::command(&self.arguments(flags));
        self.adopt(&mut command);
        command
    }

    /// Holds the programs that run here back before their last epoch until this is dropped.
    pub(crate) fn close_gate(&self) -> File {
        let gate = File::open(self.path("gate")).unwrap();
        gate.try_lock().unwrap();
        gate
    }

    /// Whether no process that ran here lives.
    pub(crate) fn is_quiet(&self) -> bool {
        File::open(self.path("alive")).unwrap().try_lock().is_ok()
    }

    /// What is in the folder for temporary files.
    pub(crate) fn temporary(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("temporary")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

/// What one process prints that nobody disturbs.
pub(crate) fn undisturbed() -> &'static [String] {
    static PRINTED: OnceLock<Vec<String>> = OnceLock::new();
    PRINTED.get_or_init(|| {
        let place = Place::new();
        let mut running = Running::start(&mut place.command(&["--processes=1"]));
        assert!(running.end().success(), "{}", running.shown());
        let printed = running.printed();
        let lines = program::EPOCHS * (program::STEPS_PER_EPOCH + 1) + 1;
        assert_eq!(printed.len() as u64, lines, "{}", running.shown());
        printed
    })
}

/// Numbers from a seed that is shown if the test fails; `PROCESSES_TEST_SEED` gives the same again.
pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    pub(crate) fn new() -> Self {
        let given = std::env::var("PROCESSES_TEST_SEED").ok();
        let seed = given.map_or_else(|| RandomState::new().hash_one(0), |seed| seed.parse().unwrap());
        println!("PROCESSES_TEST_SEED={seed}");
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(crate) fn below(&mut self, count: u64) -> u64 {
        self.0.next_u64() % count
    }

    /// A step of the epochs before the gate.
    pub(crate) fn step(&mut self) -> u64 {
        self.below((program::EPOCHS - 1) * program::STEPS_PER_EPOCH)
    }

    pub(crate) fn slot(&mut self, slots: Range<u64>) -> u32 {
        (slots.start + self.below(slots.end - slots.start)) as u32
    }
}

/// A running cluster. It cannot end before its gate is opened.
pub(crate) struct Cluster {
    pub(crate) parent: Running,
    gate: Option<File>,
}

impl Cluster {
    pub(crate) fn start(place: &Place, flags: &[&str]) -> Self {
        let events = [&["--events=/dev/stderr"], flags].concat();
        Self::of(place, &mut place.command(&events))
    }

    pub(crate) fn of(place: &Place, command: &mut Command) -> Self {
        let gate = Some(place.close_gate());
        let parent = Running::start(command);
        Self { parent, gate }
    }

    /// The process that fills a slot, once one does.
    #[track_caller]
    pub(crate) fn process_in(&mut self, slot: u32) -> u32 {
        let here =
            |event: &Value| event["slot"] == slot && ["joined", "lost"].contains(&event["event"].as_str().unwrap());
        loop {
            match self.parent.events().filter(here).last() {
                Some(event) if event["event"] == "joined" => return event["process"].as_u64().unwrap() as u32,
                _ => self
                    .parent
                    .next()
                    .unwrap_or_else(|| panic!("nobody came to slot {slot}")),
            };
        }
    }

    /// Sends a signal to the process in a slot; gives its number.
    #[track_caller]
    pub(crate) fn strike(&mut self, slot: u32, signal: Signal) -> u32 {
        let process = self.process_in(slot);
        send_signal(process, signal);
        process
    }

    /// Waits until the name node has noticed that a process is lost.
    #[track_caller]
    pub(crate) fn wait_for_loss(&mut self, process: u32) -> Value {
        let lost = |event: &Value| event["event"] == "lost" && event["process"] == process;
        loop {
            if let Some(event) = self.parent.events().find(lost) {
                return event;
            }
            assert!(
                self.parent.next().is_some(),
                "nobody missed process {process}:\n{}",
                self.parent.shown()
            );
        }
    }

    /// The cluster ends well and prints what one undisturbed process does, although these processes were lost.
    #[track_caller]
    pub(crate) fn ends_as_undisturbed(mut self, lost: &[u32]) -> Running {
        self.gate = None;
        let status = self.parent.end();
        assert!(status.success(), "{}", self.parent.shown());
        assert!(self.parent.printed() == undisturbed(), "{}", self.parent.shown());
        lost.iter().for_each(|process| drop(self.wait_for_loss(*process)));
        self.parent
    }
}
