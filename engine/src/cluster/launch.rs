//! How a cluster begins: on this host, on others, or by hand.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use distdl_storage::object::remedy_of_limit;

use super::chaos::Chaos;
use super::children::Recipe;
use super::hosts::{Hosts, HostsError, is_here};
use super::identity::Address;
use super::join::{JOIN_VARIABLE, Join, role_of};
use super::remote::{Remote, RemoteProcess};
use super::secrets::{SecretError, Secrets, random_secret, read_secret};
use crate::config::{Config, ConfigError};

/// Why a cluster cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The file of hosts.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// Other hosts could reach this one, and nothing would tell friend from foe.
    #[error(
        "other hosts can reach {address}, so the processes need a token; name a file with the same secret of at least 16 bytes on every host: `--token-file FILE` or DISTDL_TOKEN_FILE"
    )]
    NoToken {
        /// The address that is not of the loopback.
        address: IpAddr,
    },
    /// There are other hosts, and they are not told how to reach this one.
    #[error("the processes of other hosts need an address of this one{given}; name it: `--listen ADDRESS:0`")]
    NoAddress {
        /// The address as given, if that is none.
        given: String,
    },
    /// The name node cannot listen.
    #[error(
        "the name node cannot listen at {address}: {source}; {remedy}",
        remedy = remedy_of_limit(.source).unwrap_or("name another address with `--listen`")
    )]
    Listen {
        /// Where it listens.
        address: Address,
        /// The system's words.
        source: io::Error,
    },
    /// The folder of the journal, or the file of events, cannot be used.
    #[error("{0}")]
    Record(String),
    /// The system refuses threads or signals.
    #[error(
        "the name node cannot start: {0}; {remedy}",
        remedy = remedy_of_limit(.0).unwrap_or("look at the limits of this process (`ulimit -a`)")
    )]
    Start(#[source] io::Error),
    /// A program that cannot be started.
    #[error("cannot start {}: {message}; check the path", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// The system's words.
        message: String,
    },
}

/// How the process of a slot is started, in which of its lives, when the name node listens at an address. Slots from
/// `processes` on are spares.
pub type RecipeFor = Box<dyn Fn(&Address, u32, u32) -> Recipe + Send>;

/// What a name node is to do.
pub struct NameNodeOptions {
    /// How many processes, what happens when one is lost, and where it is noted.
    pub config: Config,
    /// Where it listens; port 0 is any.
    pub listen: Address,
    /// Whom it lets in.
    pub secrets: Secrets,
    /// Whether its processes run the program of this one. If not, all run that of the first that comes.
    pub own_program: bool,
    /// The folder of its journal, from which it goes on if it was killed. `None`: it ends with its children.
    pub folder: Option<PathBuf>,
    /// How it starts processes. `None`: they are started by others.
    pub recipe_for: Option<RecipeFor>,
}

impl std::fmt::Debug for NameNodeOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("NameNodeOptions")
            .field("listen", &self.listen)
            .field("secrets", &self.secrets)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl NameNodeOptions {
    /// A cluster of processes of this program with its own arguments, on this host.
    ///
    /// # Errors
    /// As [`Config::check`], or if the system does not tell the program or has no random numbers.
    pub fn for_this_program(config: Config) -> Result<Self, LaunchError> {
        let program = this_program()?;
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let secrets = Secrets::random()?;
        let (member, shape) = (secrets.clone(), Shape::of(&config)?);
        let recipe = move |name_node: &Address, slot, life| {
            let join = shape.child(name_node.clone(), member.clone(), slot, life);
            Recipe::member(&program, arguments.clone(), &join)
        };
        Ok(Self {
            config,
            listen: own_address(&secrets),
            secrets,
            own_program: true,
            folder: None,
            recipe_for: Some(Box::new(recipe)),
        })
    }

    /// A cluster of processes of a program on several hosts. `config` has the counts of `hosts`.
    ///
    /// # Errors
    /// If other hosts are not told an address of this one, the file of the secret cannot be used, or as
    /// [`NameNodeOptions::for_this_program`].
    pub fn for_hosts(
        config: Config,
        hosts: Hosts,
        remote: Remote,
        listen: Option<SocketAddr>,
    ) -> Result<Self, LaunchError> {
        let secret = match &config.token_file {
            Some(file) => read_secret(file)?,
            None => random_secret()?.into_bytes(),
        };
        let secrets = Secrets::derived_from(&secret);
        let listen = match listen {
            Some(address) if address.ip().is_unspecified() => {
                let given = format!(", and {} is none", address.ip());
                return Err(LaunchError::NoAddress { given });
            }
            Some(address) => Address::Tcp(address),
            None if hosts.are_all_here() => own_address(&secrets),
            None => return Err(LaunchError::NoAddress { given: String::new() }),
        };
        let (member, shape) = (secrets.clone(), Shape::of(&config)?);
        let recipe = move |name_node: &Address, slot, life| {
            let host = hosts.slot_host(slot);
            let join = shape.child(name_node.clone(), member.clone(), slot, life);
            match name_node {
                Address::Tcp(address) if !is_here(&host.host) => remote.recipe(&RemoteProcess {
                    host: &host.host,
                    name_node: *address,
                    slot: join.slot,
                    life: join.life,
                    role: host.role,
                    beside: hosts.processes_on(&host.host),
                    secret: &secret,
                }),
                _ => here(&remote, hosts.processes_on(&host.host), &join),
            }
        };
        Ok(Self {
            config,
            listen,
            secrets,
            own_program: false,
            folder: None,
            recipe_for: Some(Box::new(recipe)),
        })
    }
}

/// A process of this host beside those of others.
fn here(remote: &Remote, beside: usize, join: &Join) -> Recipe {
    let (program, arguments) = remote
        .program
        .split_first()
        .map_or_else(Default::default, |(program, arguments)| {
            (program.clone(), arguments.to_vec())
        });
    let mut recipe = Recipe::member(program, arguments, join);
    let inherited = remote.variables.iter().map(|(name, text)| (name.into(), text.into()));
    let beside = ("DISTDL_PROCESSES".into(), beside.to_string().into());
    recipe.variables = inherited.chain([beside]).chain(recipe.variables).collect();
    recipe
}

/// What all children of a cluster have in common.
struct Shape {
    processes: usize,
    parameter_workers: usize,
    parent: u32,
}

impl Shape {
    /// Also sees that the configuration is one and all faults can happen, before any process is there.
    fn of(config: &Config) -> Result<Self, ConfigError> {
        config.check()?;
        let chaos = Chaos::parse(config.chaos.as_deref().unwrap_or_default())?;
        chaos.check(u32::try_from(config.processes).unwrap_or(u32::MAX))?;
        Ok(Self {
            processes: config.processes,
            parameter_workers: config.parameter_workers,
            parent: std::process::id(),
        })
    }

    /// What a child is told. It asks for the slot that it was started for, by which its parent ends it; a spare too. A
    /// spare is in no slot's first life, so that no fault happens to it a second time.
    fn child(&self, name_node: Address, secrets: Secrets, slot: u32, life: u32) -> Join {
        let is_spare = slot as usize >= self.processes;
        Join {
            name_node,
            secrets,
            slot: Some(slot),
            life: life + u32::from(is_spare),
            role: role_of(slot, self.processes, self.parameter_workers),
            // The name node is the parent: with it the children end.
            name_node_grace: Duration::ZERO,
            bind: None,
            port: 0,
            advertise: None,
            parent: Some(self.parent),
            is_child: true,
        }
    }
}

/// Where a name node listens whose processes are all on this host.
fn own_address(secrets: &Secrets) -> Address {
    if cfg!(target_os = "linux") {
        let cluster = u128::from_be_bytes(secrets.cluster);
        Address::Local(format!("distdl-{}-{cluster:032x}", std::process::id()))
    } else {
        Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }
}

/// The secrets of a token file; without one those of this user, if other hosts cannot reach what is listened at.
///
/// # Errors
/// [`LaunchError::NoToken`] if other hosts can reach one of the addresses; as [`Secrets::from_file`] and
/// [`Secrets::of_user`].
pub fn secrets_for(
    mut addresses: impl Iterator<Item = IpAddr>,
    token_file: Option<&Path>,
) -> Result<Secrets, LaunchError> {
    if let Some(file) = token_file {
        return Ok(Secrets::from_file(file)?);
    }
    match addresses.find(|address| !address.is_loopback()) {
        Some(address) => Err(LaunchError::NoToken { address }),
        None => Ok(Secrets::of_user()?),
    }
}

/// Makes this process another program, with these variables beside its own and the given [`Join`] or none; comes back
/// only if it cannot.
pub fn become_program(program: &[OsString], variables: Vec<(String, String)>, join: Option<&Join>) -> LaunchError {
    let (program, arguments) = match program.split_first() {
        Some((program, arguments)) => (program.as_os_str(), arguments),
        None => (OsStr::new(""), &[][..]),
    };
    let mut command = Command::new(program);
    command.args(arguments).env_remove(JOIN_VARIABLE).envs(variables);
    command.envs(join.map(|join| (JOIN_VARIABLE, join.to_text())));
    let error = command.exec();
    // `exec` has made SIGPIPE deadly, for the other program; in this one a broken pipe is an error of the write again.
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGPIPE, Arc::default()) {
        tracing::warn!(%error, "the next write to a pipe that nobody reads ends this process");
    }
    program_error(program, &error)
}

/// The program of this process.
///
/// # Errors
/// If the system does not tell.
pub fn this_program() -> Result<PathBuf, LaunchError> {
    std::env::current_exe().map_err(|error| program_error(OsStr::new("this program again"), &error))
}

fn program_error(program: &OsStr, error: &io::Error) -> LaunchError {
    LaunchError::Program {
        program: program.into(),
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
