//! A name node with all that belongs to it: its children, their output, its journal, and what people hear of it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use distdl_storage::DiskTier;
use distdl_storage::object::remedy_of_limit;

use crate::cluster::chaos::Chaos;
use crate::cluster::children::{Children, Exited};
use crate::cluster::events::{ClusterEvent, Happening};
use crate::cluster::handshake::Credentials;
use crate::cluster::identity::Address;
use crate::cluster::journal::{Journal, LogEntry};
use crate::cluster::launch::{LaunchError, NameNodeOptions};
use crate::cluster::member::Fate;
use crate::cluster::name_node::Options;
use crate::cluster::output::Output;
use crate::cluster::secrets::Secrets;
use crate::cluster::server::{Notes, Server, Setup, Spawner, Watch};
use crate::cluster::signals::{SignalledEnd, is_ending};
use crate::cluster::socket::Listener;
use crate::config::Config;
use crate::progress::Bar;

/// Runs a name node, and its children if it has any, until the program has ended in all processes. Errors go to
/// standard error.
pub fn run_name_node(options: NameNodeOptions) -> ExitCode {
    let outcome = run(options).map_err(|error| error.to_string());
    match outcome.and_then(|outcome| outcome) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells people, if they can be told: the cluster goes on where standard error is a file on a full disk, or a pipe that
/// nobody reads any more.
fn say(sentence: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{sentence}");
}

fn run(options: NameNodeOptions) -> Result<Result<(), String>, LaunchError> {
    let NameNodeOptions {
        config,
        listen,
        secrets,
        own_program,
        folder,
        recipe_for,
    } = options;
    let listener = bind(&listen)?;
    let address = listener.address();
    let chaos = Chaos::parse(config.chaos.as_deref().unwrap_or_default())?;
    let journal = journal(folder.as_deref(), &config)?;
    let bar = Arc::new(Bar::default());
    if recipe_for.is_none() {
        notice(&address);
    }
    let (exits, ended) = std::sync::mpsc::channel();
    let output = Arc::new(Output::standard());
    let children = recipe_for.map(|recipe_for| {
        let recipe = move |slot, life| recipe_for(&address, slot, life);
        let exited = move |exited: Exited| {
            // A name node that has ended need not know.
            let _ = exits.send(exited);
        };
        Children::new(recipe, Arc::clone(&output), exited).map(Arc::new)
    });
    let children = children.transpose().map_err(LaunchError::Start)?;
    let ending = children.as_ref().map(|children| children.signalled());
    let goes_on = !journal.1.is_empty();
    let notes = notes(&config, goes_on, Arc::clone(&bar), ending.unwrap_or_default())?;
    let progress = config.shows_jobs().then(|| watch(bar));
    let spill_folder = config.spill_folder.clone();
    if let Some(children) = &children {
        let clean_up = move || DiskTier::remove_leftovers(spill_folder.as_deref());
        children.end_with_signals(clean_up).map_err(LaunchError::Start)?;
    } else {
        // Its journal is for the next one.
        SignalledEnd::begin();
    }
    let server = Server::start(Setup {
        listener,
        credentials: credentials(&secrets, own_program),
        options: Options {
            starts_processes: children.is_some(),
            ..decisions(&config)
        },
        journal,
        spawner: Box::new(Offspring(children.clone())),
        notes,
        progress,
        chaos: chaos.plan_for_name_node(),
        fate: Fate::Signal,
    });
    let server = server.map_err(LaunchError::Start)?;
    let handle = server.handle();
    let forwarding = std::thread::Builder::new().name("distdl-exits".into());
    let forwarding = forwarding.spawn(move || {
        for Exited {
            slot,
            process,
            is_remote,
            cause,
            ..
        } in ended
        {
            // The number of a remote shell is none that its process has told.
            handle.exited(slot, (!is_remote).then_some(process), cause);
        }
    });
    forwarding.map(drop).map_err(LaunchError::Start)?;
    let outcome = server.wait();
    if let Some(children) = &children {
        children.wait_if_signalled();
        if outcome.is_err() {
            children.kill_all();
        }
        children.wait_all();
        DiskTier::remove_leftovers(config.spill_folder.as_deref());
    }
    let written = output
        .close()
        .map_err(|error| format!("cannot write the output: {error}"));
    Ok(outcome.and(written))
}

fn bind(address: &Address) -> Result<Listener, LaunchError> {
    let bound = match address {
        Address::Local(_) => Listener::bind_local(),
        Address::Tcp(address) => Listener::bind_anywhere(*address),
    };
    bound.map_err(|source| LaunchError::Listen {
        address: address.clone(),
        source,
    })
}

fn credentials(secrets: &Secrets, own_program: bool) -> Credentials {
    match own_program {
        true => Credentials::new(secrets.cluster, &secrets.token, distdl_storage::program_fingerprint()),
        false => Credentials::of_any_program(secrets.cluster, &secrets.token),
    }
}

/// What the journal may take where blocks may take less, or are to be on no disk: actions have answers all the same.
const JOURNAL_BYTES_MIN: u64 = 1 << 26;

/// In the folder, or else among what is gone with this process.
fn journal(folder: Option<&Path>, config: &Config) -> Result<(Journal, Vec<LogEntry>), LaunchError> {
    let bytes_max = config.disk_bytes_max.max(JOURNAL_BYTES_MIN);
    let journal = match folder {
        Some(folder) => Journal::open(folder, bytes_max),
        None => Journal::temporary(config.spill_folder.as_deref(), bytes_max).map(|journal| (journal, Vec::new())),
    };
    journal.map_err(|error| LaunchError::Record(error.to_string()))
}

/// What the configuration says of a cluster.
fn decisions(config: &Config) -> Options {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Options {
        processes: count(config.processes),
        spares: count(config.spares),
        lease: config.lease,
        grace: config.grace,
        restarts_max: config.restarts,
        ..Options::default()
    }
}

/// Writes what happens to the file of events, and a sentence to standard error where a person should hear of it: not of
/// what comes of `ending` this process, which they have asked for.
fn notes(config: &Config, goes_on: bool, bar: Arc<Bar>, ending: Arc<AtomicBool>) -> Result<Notes, LaunchError> {
    let failed = |path: &Path, error: &io::Error| {
        LaunchError::Record(format!(
            "cannot write the events to {}: {error}; {}",
            path.display(),
            remedy_of_limit(error).unwrap_or("name another file with `--events`")
        ))
    };
    let file = config
        .events
        .as_ref()
        .map(|path| events(path, goes_on).map_err(|error| failed(path, &error)));
    let mut file = file.transpose()?;
    Ok(Box::new(move |event: ClusterEvent| {
        if matches!(event.what, Happening::Answered { .. }) {
            // What the program prints then comes after this.
            bar.clear();
        }
        if let Some(sentence) = event.sentence().filter(|_| !is_ending(&ending)) {
            bar.suspend(|| say(format_args!("{sentence}")));
        }
        // At once: whoever reads along sees whole lines.
        if let (Some(events), Ok(line)) = (&mut file, event.line(SystemTime::now()))
            && let Err(error) = events.write_all(format!("{line}\n").as_bytes())
        {
            say(format_args!("the file of events cannot be written any more: {error}"));
            file = None;
        }
    }))
}

/// The file of events: a new one, or that of the name node before this one if it `goes_on`.
fn events(path: &Path, goes_on: bool) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).append(goes_on).write(true).truncate(!goes_on);
    let mut file = options.open(path)?;
    if goes_on && ends_within_a_line(path, &file) {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// Whether the name node before this one was killed while it wrote.
fn ends_within_a_line(path: &Path, file: &File) -> bool {
    let mut last = [b'\n'];
    let is_read = file.metadata().is_ok_and(|data| {
        let end = data.len().checked_sub(1).filter(|_| data.is_file());
        end.is_some_and(|end| File::open(path).is_ok_and(|file| file.read_exact_at(&mut last, end).is_ok()))
    });
    is_read && last != [b'\n']
}

/// Draws how far the members together are.
fn watch(bar: Arc<Bar>) -> Watch {
    Box::new(move |progress| bar.show(progress))
}

/// Tells people where processes can find a name node that starts none itself.
fn notice(address: &Address) {
    if let Address::Tcp(address) = address {
        say(format_args!("name node at {address}"));
    }
}

/// The processes that a name node starts; none if others start them.
struct Offspring(Option<Arc<Children>>);

impl Spawner for Offspring {
    fn start(&mut self, slot: u32) -> io::Result<()> {
        match &self.0 {
            Some(children) => children.start(slot).map(drop),
            None => Ok(()),
        }
    }

    fn kill(&mut self, slot: u32) {
        if let Some(children) = &self.0 {
            children.kill(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_name_node_that_goes_on_leaves_the_events_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        for (goes_on, written) in [(false, "first\n"), (true, "first\nsecond\n"), (false, "third\n")] {
            let line = written.lines().last().unwrap();
            writeln!(events(&path, goes_on).unwrap(), "{line}").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
        }
        // As one has left them that was killed while it wrote.
        write!(events(&path, true).unwrap(), "half a li").unwrap();
        writeln!(events(&path, true).unwrap(), "fourth").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "third\nhalf a li\nfourth\n");
        assert!(events(&folder.path().join("new"), true).is_ok());
    }
}
