//! The hosts of a cluster, from a file: a host a line, with how many processes it has and what they are for.
//!
//! ```text
//!   # comment
//!   localhost slots=2
//!   node-7    slots=4 role=worker
//!   me@node-8 role=parameter
//! ```
//!
//! Slots are counted over the workers in the order of the file, then over the parameter workers.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use clap::ValueEnum;

use super::identity::Role;

/// Most bytes of the file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most processes of a cluster.
const SLOTS_MAX: usize = 256;

/// Why a file of hosts cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostsError {
    /// The file cannot be read.
    #[error("cannot read the file of hosts {file}: {message}; check the path that `--hosts` names")]
    File {
        /// The file.
        file: String,
        /// The system's words.
        message: String,
    },
    /// A line that makes no sense.
    #[error(
        "{file}, line {line}: {problem}; lines look like `node-7 slots=4 role=worker`, where role may be `parameter`"
    )]
    Line {
        /// The file.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The file as a whole makes no sense.
    #[error("{file}: {problem}")]
    Whole {
        /// The file.
        file: String,
        /// What is wrong, and how to mend it.
        problem: String,
    },
}

/// Where the process of a slot runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotHost {
    /// The host, as the remote shell takes it: `node-7`, `me@node-8`.
    pub host: String,
    /// What the process is for.
    pub role: Role,
}

/// The slots of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    slots: Vec<SlotHost>,
    workers: usize,
}

impl Hosts {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no list of hosts with at least one worker and at most 256 processes.
    pub fn read(path: &Path) -> Result<Self, HostsError> {
        let file = path.display().to_string();
        let failed = |message: String| HostsError::File {
            file: file.clone(),
            message,
        };
        // What is no plain file does not say how long it is.
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
        read.map_err(|error| failed(error.to_string()))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(failed(format!(
                "at most {FILE_BYTES_MAX} bytes are read, and it has more"
            )));
        }
        let text = String::from_utf8(bytes).map_err(|error| failed(error.to_string()))?;
        Self::parse(&file, &text)
    }

    /// Reads the text of a file of that name.
    ///
    /// # Errors
    /// As [`Hosts::read`].
    pub fn parse(file: &str, text: &str) -> Result<Self, HostsError> {
        let (mut workers, mut parameters) = (Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            let failed = |problem| HostsError::Line {
                file: file.to_owned(),
                line: index + 1,
                problem,
            };
            let Some((host, slots)) = entry(line).map_err(failed)? else {
                continue;
            };
            let list = if host.role == Role::Worker {
                &mut workers
            } else {
                &mut parameters
            };
            list.extend(std::iter::repeat_n(host, slots));
            if workers.len() + parameters.len() > SLOTS_MAX {
                return Err(failed(format!("more than {SLOTS_MAX} processes up to here")));
            }
        }
        if workers.is_empty() {
            return Err(HostsError::Whole {
                file: file.to_owned(),
                problem: "there is no host for workers; add one, such as `localhost slots=2`".to_owned(),
            });
        }
        let count = workers.len();
        workers.append(&mut parameters);
        Ok(Self {
            slots: workers,
            workers: count,
        })
    }

    /// All processes of the cluster, spares left out.
    pub fn processes(&self) -> usize {
        self.slots.len()
    }

    /// Those of them that are for parameters only: the last ones.
    pub fn parameter_workers(&self) -> usize {
        self.slots.len() - self.workers
    }

    /// Where the process of a slot runs. Slots beyond the last are spares, which are dealt to the hosts of workers.
    pub(crate) fn slot_host(&self, slot: u32) -> &SlotHost {
        let slot = slot as usize;
        let spare = slot.saturating_sub(self.slots.len()) % self.workers;
        self.slots.get(slot).unwrap_or(&self.slots[spare])
    }

    /// How many of the processes run on a host.
    pub fn processes_on(&self, host: &str) -> usize {
        self.slots.iter().filter(|slot| slot.host == host).count()
    }

    /// Whether all processes run on this host.
    pub fn are_all_here(&self) -> bool {
        self.slots.iter().all(|slot| is_here(&slot.host))
    }
}

/// Whether a host is this one, by one of its usual names.
pub(crate) fn is_here(host: &str) -> bool {
    let own = rustix::system::uname();
    ["localhost", "127.0.0.1", "::1"].contains(&host) || own.nodename().to_bytes() == host.as_bytes()
}

/// What a line says: nothing, or a host and how many processes are there.
fn entry(line: &str) -> Result<Option<(SlotHost, usize)>, String> {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    let Some(host) = words.next() else { return Ok(None) };
    check_host(host)?;
    let (mut slots, mut role) = (None, None);
    for word in words {
        let known = match word.split_once('=') {
            Some(("slots", count)) => set(
                &mut slots,
                count.parse().ok().filter(|count| (1..=SLOTS_MAX).contains(count)),
            ),
            Some(("role", name)) => set(&mut role, Role::from_str(name, false).ok()),
            _ => false,
        };
        if !known {
            return Err(format!("`{}` makes no sense here", shown(word)));
        }
    }
    let slot_host = SlotHost {
        host: host.to_owned(),
        role: role.unwrap_or(Role::Worker),
    };
    Ok(Some((slot_host, slots.unwrap_or(1))))
}

/// Sets what is given once and usable; says whether it was.
fn set<T>(to: &mut Option<T>, value: Option<T>) -> bool {
    let usable = to.is_none() && value.is_some();
    *to = value;
    usable
}

/// A host is an argument of the remote shell's program, where it must not pass for an option.
fn check_host(host: &str) -> Result<(), String> {
    let usable = |letter: char| letter.is_ascii_alphanumeric() || ".-_:@[]%".contains(letter);
    if host.starts_with('-') || !host.chars().all(usable) {
        return Err(format!("`{}` is no name of a host", shown(host)));
    }
    Ok(())
}

/// The beginning of a word, for an error.
fn shown(word: &str) -> String {
    word.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn workers_come_first_and_spares_are_dealt_to_their_hosts() {
        let text = "# all\n\na slots=2 # two\nb role=parameter slots=1\n  me@c role=worker\n";
        let hosts = Hosts::parse("hosts", text).unwrap();
        assert_eq!((hosts.processes(), hosts.parameter_workers()), (4, 1));
        let names: Vec<&str> = (0..8).map(|slot| hosts.slot_host(slot).host.as_str()).collect();
        assert_eq!(names, ["a", "a", "me@c", "b", "a", "a", "me@c", "a"]);
        assert_eq!(hosts.slot_host(3).role, Role::Parameter);
        assert_eq!(hosts.slot_host(4).role, Role::Worker);
        assert_eq!(
            (
                hosts.processes_on("a"),
                hosts.processes_on("b"),
                hosts.processes_on("d")
            ),
            (2, 1, 0)
        );
        assert!(!hosts.are_all_here());
        assert!(Hosts::parse("hosts", "localhost slots=3").unwrap().are_all_here());
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named_with_its_number() {
        for (line, problem) in [
            ("b slots=0", "`slots=0`"),
            ("b slots=257", "`slots=257`"),
            ("b slots=2 slots=2", "`slots=2`"),
            ("b role=name", "`role=name`"),
            ("b role=worker role=parameter", "`role=parameter`"),
            ("b 2", "`2`"),
            ("-oProxyCommand=x", "is no name of a host"),
            ("b;c", "`b;c` is no name of a host"),
            ("b slots=256", "more than 256 processes"),
        ] {
            let error = Hosts::parse("hosts", &format!("a\n\n{line}\n"))
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("hosts, line 3: ") && error.contains(problem),
                "{error}"
            );
        }
        let error = Hosts::parse("hosts", "a role=parameter").unwrap_err().to_string();
        assert!(error.contains("no host for workers"), "{error}");
    }

    #[test]
    fn files_that_cannot_be_read_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path| Hosts::read(path).unwrap_err().to_string();
        assert!(error(&folder.path().join("missing")).contains("`--hosts`"));
        let large = folder.path().join("large");
        std::fs::File::create(&large)
            .unwrap()
            .set_len(FILE_BYTES_MAX + 1)
            .unwrap();
        assert!(error(&large).contains("at most"));
        let good = folder.path().join("good");
        std::fs::write(&good, "a").unwrap();
        assert_eq!(Hosts::read(&good).unwrap().processes(), 1);
    }

    /// As behind `--hosts <(some program)`.
    #[test]
    fn what_does_not_say_how_long_it_is_is_read_up_to_the_limit() {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let (reading, mut writing) = std::io::pipe().unwrap();
        let path = format!("/dev/fd/{}", reading.as_raw_fd());
        // Ended by an error once nobody reads.
        let writes = std::thread::spawn(move || writing.write_all(&vec![b'#'; 4 << 20]));
        let error = Hosts::read(Path::new(&path)).unwrap_err().to_string();
        drop(reading);
        assert!(writes.join().unwrap().is_err(), "it was read to its end");
        assert!(error.contains("at most"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(a|b| |\n|#|slots=|role=|worker|[0-9]|\\PC){0,30}") {
            if let Ok(hosts) = Hosts::parse("hosts", &text) {
                prop_assert!(hosts.processes() > hosts.parameter_workers());
            }
        }
    }
}
