//! From SIGKILL of one of three processes to the next step of training, to full strength again, and how long a process
//! takes to start: `cargo bench --bench recovery`, and the same with `-- --spares 1`.
//!
//! A cluster trains without end and every process notes when it sees which step; this program kills and reads what the
//! name node says. All times are of the same monotonic clock.

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use clap::Parser;
use common::{Spread, emit, machine, mix, spread};
use distdl::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::Value;

/// How long the cluster trains: hours, and few enough that processes can tell each other what came of all of them.
const STEPS: u64 = 50_000_000;

/// Measures recovery.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Processes to kill, one after the other.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Folder with the four MNIST files.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: PathBuf,
    /// Trains until it is killed, and notes in this folder when it sees which step.
    #[arg(long, hide = true)]
    train: Option<PathBuf>,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    job: &'static str,
    processes: usize,
    spares: usize,
    #[serde(flatten)]
    spread: Spread,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(folder) = &arguments.train {
        return distdl::run(arguments.flags.config(), |context| {
            train(context, &arguments.data, folder)
        });
    }
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Nanoseconds since the machine started.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn train(context: &Context, data: &Path, folder: &Path) -> Result<(), Failure> {
    let images = Mnist::open(data)?.train;
    let images = context.parallelize(images.split(4)?, 4).cache();
    let options = TrainingOptions {
        lanes: 4,
        ..TrainingOptions::default()
    };
    let mut training = NeuralNetwork::dense(784, &[256, 128], 10)?.train(&images, options)?;
    let mut notes = File::create(folder.join(std::process::id().to_string()))?;
    training.iterate(STEPS, |step| {
        // Not buffered: what a process has seen must be there when it is killed.
        let _ = notes.write_all(format!("{} {}\n", now(), step.step).as_bytes());
    })?;
    Ok(())
}

/// What became of a kill.
struct Killed {
    at: u64,
    /// The first step after the loss, and the first with all processes again.
    next: u64,
    full: u64,
    /// From the order to start a process until it had joined.
    start_seconds: f64,
}

fn measure(arguments: &Arguments) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::start(arguments, folder.path())?;
    let mut killed = Vec::new();
    for number in 0..arguments.kills as u64 {
        killed.push(cluster.kill(number)?);
    }
    // So that steps behind the last kill are seen, too.
    std::thread::sleep(Duration::from_secs(1));
    cluster.end()?;
    let seen = seen(folder.path())?;
    let seconds = |step: fn(&Killed) -> u64| {
        let first = |killed: &Killed| {
            let after = seen
                .iter()
                .filter(|(at, seen)| *at > killed.at && *seen >= step(killed));
            after
                .map(|(at, _)| (at - killed.at) as f64 / 1e9)
                .min_by(f64::total_cmp)
        };
        killed.iter().filter_map(first).collect::<Vec<f64>>()
    };
    let starts = killed.iter().map(|killed| killed.start_seconds).collect();
    for (job, seconds) in [
        ("next_step", seconds(|killed| killed.next)),
        ("full_strength", seconds(|killed| killed.full)),
        ("process_start", starts),
    ] {
        emit(&Figure {
            bench: "recovery",
            job,
            processes: cluster.processes,
            spares: cluster.spares,
            spread: spread(seconds),
            machine: machine(),
        });
    }
    Ok(())
}

/// When any process saw which step.
fn seen(folder: &Path) -> Result<Vec<(u64, u64)>, Failure> {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        for line in std::fs::read_to_string(entry?.path())?.lines() {
            if let Some((at, step)) = line.split_once(' ') {
                seen.push((at.parse()?, step.parse()?));
            }
        }
    }
    Ok(seen)
}

/// A cluster that trains, and what its name node has said so far.
struct Cluster {
    parent: Child,
    lines: Receiver<String>,
    events: Vec<Value>,
    /// What it wrote last besides events: where it has ended, why.
    said: String,
    processes: usize,
    spares: usize,
}

impl Cluster {
    fn start(arguments: &Arguments, folder: &Path) -> Result<Self, Failure> {
        let mut flags = arguments.flags.clone();
        let processes = *flags.processes.get_or_insert(3);
        flags.restarts = Some(2 * arguments.kills as u32);
        flags.events = Some("/dev/stderr".into());
        let mut command = Command::new(std::env::current_exe()?);
        command.envs(flags.variables()?).arg("--train").arg(folder);
        command.arg("--data").arg(&arguments.data);
        let mut parent = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let errors = parent.stderr.take().ok_or("standard error is not piped")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(errors).lines().map_while(Result::ok);
            lines
                .map(|line| sender.send(line))
                .take_while(Result::is_ok)
                .for_each(drop);
        });
        let mut cluster = Self {
            parent,
            lines,
            events: Vec::new(),
            said: String::new(),
            processes,
            spares: flags.spares.unwrap_or(0),
        };
        cluster.wait(|event| event["event"] == "generation")?;
        Ok(cluster)
    }

    /// Takes a line that the name node wrote, if it is an event.
    fn take(&mut self, line: &str) -> Option<&Value> {
        match serde_json::from_str(line) {
            Ok(event) => self.events.push(event),
            Err(_) => {
                self.said = line.to_string();
                return None;
            }
        }
        self.events.last()
    }

    /// Waits for an event, of those that were not waited for yet.
    fn wait(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
        loop {
            let Ok(line) = self.lines.recv() else {
                return Err(format!("the cluster has ended before its time: {}", self.said).into());
            };
            if let Some(event) = self.take(&line).filter(|event| wanted(event)) {
                return Ok(event.clone());
            }
        }
    }

    /// Waits until the loop goes on with all processes; gives the step.
    fn wait_for_all(&mut self) -> Result<u64, Failure> {
        loop {
            let resumed = self.wait(|event| event["event"] == "resumed")?;
            if self.members().len() == self.processes {
                return Ok(resumed["version"].as_u64().unwrap_or(0));
            }
        }
    }

    /// The slots of the generation.
    fn members(&self) -> Vec<u64> {
        let last = self.events.iter().rfind(|event| event["event"] == "generation");
        let slots = last.and_then(|generation| serde_json::from_value(generation["slots"].clone()).ok());
        slots.unwrap_or_default()
    }

    /// Whether all who live have come to the loop: the members of the generation, and as many behind them as stand by.
    fn all_are_there(&self) -> bool {
        let lost: Vec<&Value> = self
            .events
            .iter()
            .filter(|event| event["event"] == "lost")
            .map(|event| &event["member"])
            .collect();
        let waits = |event: &&Value| event["event"] == "stands_by" && !lost.contains(&&event["member"]);
        let taken = |event: &Value| {
            let joined = self
                .events
                .iter()
                .rfind(|joined| joined["event"] == "joined" && joined["slot"] == event["slot"]);
            joined.is_some_and(|joined| joined["member"] == event["member"])
                && self.members().contains(&event["slot"].as_u64().unwrap_or(u64::MAX))
        };
        let standing = self.events.iter().filter(waits).filter(|event| !taken(event)).count();
        self.members().len() == self.processes && standing >= self.spares
    }

    /// Kills one process of the generation, chosen by a number, when all have trained for a while, and waits until all
    /// are back.
    fn kill(&mut self, number: u64) -> Result<Killed, Failure> {
        while !self.all_are_there() {
            self.wait(|_| true)?;
        }
        // At no particular moment of a step.
        std::thread::sleep(Duration::from_micros(1_000_000 + mix(number) % 100_000));
        while let Ok(line) = self.lines.try_recv() {
            self.take(&line);
        }
        let members = self.members();
        let slot = *members
            .get(number as usize % members.len().max(1))
            .ok_or("no generation has begun")?;
        let here = |event: &&Value| event["event"] == "joined" && event["slot"] == slot;
        let process = self
            .events
            .iter()
            .rfind(here)
            .and_then(|event| event["process"].as_i64());
        let process = process
            .and_then(|process| Pid::from_raw(process as i32))
            .ok_or("no process")?;
        let at = now();
        kill_process(process, Signal::KILL).map_err(|error| {
            format!(
                "no process was killed ({error}), and the cluster said last: {}",
                self.said
            )
        })?;
        self.wait(|event| event["event"] == "lost" && event["slot"] == slot)?;
        let next = self.wait(|event| event["event"] == "resumed")?["version"]
            .as_u64()
            .unwrap_or(0);
        let full = match self.members().len() == self.processes {
            true => next,
            false => self.wait_for_all()?,
        };
        while self.joined() < self.processes + self.spares {
            self.wait(|event| event["event"] == "joined")?;
        }
        let seconds = |what: &str| {
            let event = self
                .events
                .iter()
                .rfind(|event| event["event"] == what && event["slot"] == slot);
            event
                .and_then(|event| event["seconds"].as_f64())
                .ok_or("no process was started")
        };
        Ok(Killed {
            at,
            next,
            full,
            start_seconds: seconds("joined")? - seconds("started")?,
        })
    }

    /// Members that live.
    fn joined(&self) -> usize {
        let count = |what: &str| self.events.iter().filter(|event| event["event"] == what).count();
        count("joined") - count("lost")
    }

    /// Ends it, in order; it takes its processes along.
    fn end(&mut self) -> Result<(), Failure> {
        let parent = Pid::from_raw(self.parent.id() as i32).ok_or("no process")?;
        kill_process(parent, Signal::TERM)?;
        self.parent.wait()?;
        Ok(())
    }
}

impl Drop for Cluster {
    /// Whatever went wrong, nothing goes on training.
    fn drop(&mut self) {
        let _ = self.parent.kill();
        let _ = self.parent.wait();
    }
}
