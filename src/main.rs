//! The program `distdl`.

mod addresses;

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use distdl::EngineError;
use distdl::engine::cluster::{
    Address, Hosts, Join, NameNodeOptions, Remote, Role, SignalledEnd, become_program, run_name_node, secrets_for,
    this_program,
};
use distdl::engine::device::{Chosen, choose};
use distdl::prelude::*;

/// DistDL's own commands. Programs that use DistDL take the same common flags.
#[derive(Parser)]
#[command(name = "distdl", version, about)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows what flags, environment and file add up to, in the form of a `distdl.toml`.
    Config,
    /// Shows what computes, the CPU or a GPU, and why.
    Device,
    /// Measures a saved dense network (relu, softmax) on the MNIST test set.
    Evaluate {
        /// The model, a safetensors file or its URL, as written by the example `mnist --model-out`.
        model: PathBuf,
        /// Folder with the MNIST files.
        #[arg(long, default_value = "examples/data/mnist")]
        data: PathBuf,
        /// Widths of the hidden layers.
        #[arg(long, value_delimiter = ',', default_value = "256,128")]
        hidden: Vec<usize>,
    },
    /// Runs a program as many processes, on this host (--processes) or on several (--hosts).
    Launch(Launch),
    /// Runs the name node of a cluster whose processes are started by hand, with `distdl worker`.
    Name(Name),
    /// Runs a program as one process of a cluster whose name node is elsewhere.
    Worker(Member),
}

#[derive(Args)]
struct Launch {
    /// The hosts, a line each: `node-7 slots=4 role=worker` or `role=parameter`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["processes", "parameter_workers"])]
    hosts: Option<PathBuf>,
    /// What reaches other hosts; it is given the host and a command.
    #[arg(long, value_name = "PROGRAM", default_value = "ssh", requires = "hosts")]
    ssh: PathBuf,
    /// Where this host listens for the processes of others, as they reach it; port 0 is any.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "hosts")]
    listen: Option<SocketAddr>,
    /// File with the secret of the cluster, at least 16 bytes [default: a new secret].
    #[arg(long, value_name = "FILE", requires = "hosts")]
    token_file: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

#[derive(Args)]
struct Name {
    /// Where it listens; 0.0.0.0 is all addresses of this host, port 0 is any.
    #[arg(long, value_name = "HOST:PORT")]
    listen: String,
    /// Folder of its journal; started again with the same folder it goes on where it was.
    #[arg(long)]
    folder: PathBuf,
    /// File with the secret of the cluster, at least 16 bytes; needed if other hosts can reach it.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Args)]
struct Member {
    /// Where the name node listens.
    #[arg(long, value_name = "HOST:PORT")]
    name: String,
    /// The place in the cluster, counted from 0 [default: any].
    #[arg(long, value_name = "NUMBER")]
    slot: Option<u32>,
    /// How many were started for the slot before.
    #[arg(long, hide = true, default_value_t = 0)]
    life: u32,
    /// Whether its name node has had it started: with that it ends, and that says how the program ended.
    #[arg(long, hide = true, conflicts_with = "name_grace")]
    launched: bool,
    /// What the process is for.
    #[arg(long, value_enum, default_value_t = Role::Worker)]
    role: Role,
    /// Where it listens for other processes [default: the address that reaches the name node].
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// The port at which it listens for them, as a firewall may want; each process on a host needs one of its own
    /// [default: any that is free].
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// The address that other processes are told instead.
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<IpAddr>,
    /// How long it looks for a name node that is gone.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 30_000)]
    name_grace: u64,
    /// File with the secret of the cluster, at least 16 bytes; needed if other hosts can reach it. `-` is standard
    /// input.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

fn main() -> ExitCode {
    let Arguments { flags, command } = Arguments::parse();
    match command {
        Command::Config => shown(
            flags
                .config()
                .map_err(Into::into)
                .and_then(|config| Ok(std::io::stdout().write_all(config.to_toml().as_bytes())?)),
        ),
        Command::Device => shown(flags.config().map_err(Into::into).and_then(|config| device(&config))),
        Command::Evaluate { model, data, hidden } => {
            distdl::run(flags.config(), |context| evaluate(context, &model, &data, &hidden))
        }
        Command::Launch(launch) => ended(launch.run(flags)),
        Command::Name(name) => ended(name.run(&flags)),
        Command::Worker(member) => {
            // Until this process is the program, which sees to it itself.
            SignalledEnd::begin();
            shown(member.run(&flags))
        }
    }
}

/// The end of a command that has done all itself.
fn shown(outcome: Result<(), Failure>) -> ExitCode {
    ended(outcome.map(|()| ExitCode::SUCCESS))
}

fn ended(outcome: Result<ExitCode, Failure>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        ExitCode::FAILURE
    })
}

impl Launch {
    fn run(self, flags: Flags) -> Result<ExitCode, Failure> {
        match &self.hosts {
            Some(file) => {
                let hosts = Hosts::read(file)?;
                self.on_hosts(hosts, flags)
            }
            None => {
                flags.config()?;
                Err(become_program(&self.program, flags.variables()?, None).into())
            }
        }
    }

    fn on_hosts(self, hosts: Hosts, flags: Flags) -> Result<ExitCode, Failure> {
        let counted = Flags {
            processes: Some(hosts.processes()),
            parameter_workers: Some(hosts.parameter_workers()),
            ..flags.clone()
        };
        let mut config = counted.config()?;
        distdl::log_to_standard_error(config.log);
        config.token_file = self.token_file.or(config.token_file);
        let remote = Remote {
            shell: self.ssh,
            distdl: this_program()?,
            folder: std::env::current_dir()?,
            variables: passed_on(&flags)?,
            program: self.program,
        };
        let options = NameNodeOptions::for_hosts(config, hosts, remote, self.listen)?;
        Ok(run_name_node(options))
    }
}

/// The settings of this process's environment and flags, for processes of a cluster that is made here.
fn passed_on(flags: &Flags) -> Result<Vec<(String, String)>, Failure> {
    const OWN: [&str; 3] = ["DISTDL_JOIN", "DISTDL_TOKEN_FILE", "DISTDL_EVENTS"];
    let flags = flags.variables()?;
    // Variables of others may be anything; of ours, one that is not text was refused with the settings.
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with("DISTDL_"))?;
        Some((name, value.into_string().ok()?))
    });
    let environment = environment.filter(|(name, _)| !flags.iter().any(|(flag, _)| flag == name));
    let all = environment.chain(flags.iter().cloned());
    Ok(all.filter(|(name, _)| !OWN.contains(&name.as_str())).collect())
}

impl Name {
    fn run(self, flags: &Flags) -> Result<ExitCode, Failure> {
        let config = flags.config()?;
        distdl::log_to_standard_error(config.log);
        let token_file = self.token_file.as_deref().or(config.token_file.as_deref());
        let listen = own(&self.listen)?;
        let secrets = secrets_for([listen.ip()].into_iter(), token_file)?;
        Ok(run_name_node(NameNodeOptions {
            listen: Address::Tcp(listen),
            secrets,
            own_program: false,
            folder: Some(self.folder),
            recipe_for: None,
            config,
        }))
    }
}

impl Member {
    fn run(self, flags: &Flags) -> Result<(), Failure> {
        let config = flags.config()?;
        let name_node_grace = Duration::from_millis(if self.launched { 0 } else { self.name_grace });
        let name_node = resolved(&self.name, name_node_grace)?;
        let addresses = [Some(name_node.ip()), self.bind].into_iter().flatten();
        let token_file = self.token_file.as_deref().or(config.token_file.as_deref());
        let join = Join {
            name_node: Address::Tcp(name_node),
            secrets: secrets_for(addresses, token_file)?,
            slot: self.slot,
            life: self.life,
            role: self.role,
            name_node_grace,
            bind: self.bind,
            port: self.port,
            advertise: self.advertise,
            parent: None,
            is_child: self.launched,
        };
        Err(become_program(&self.program, flags.variables()?, Some(&join)).into())
    }
}

/// The first address of a `host:port` of this host.
fn own(name: &str) -> Result<SocketAddr, Failure> {
    let remedy = "name this host, or an address of it, and a port: `--listen HOST:PORT`";
    let mut addresses =
        (name.to_socket_addrs()).map_err(|error| format!("cannot listen at {name}: {error}; {remedy}"))?;
    Ok(addresses
        .next()
        .ok_or_else(|| format!("cannot listen at {name}: it has no address; {remedy}"))?)
}

/// Where `host:port` is. A name that is not known yet is waited for.
fn resolved(name: &str, patience: Duration) -> Result<SocketAddr, Failure> {
    let remedy = "name the host and port at which the name node listens: `--name HOST:PORT`";
    let tell = |why: &str| {
        let _ = writeln!(
            std::io::stderr(),
            "cannot find the name node {name}: {why}; trying again for {patience:?}"
        );
    };
    let found = addresses::found(|| Ok(name.to_socket_addrs()?.collect()), patience, tell);
    Ok(found.map_err(|why| format!("cannot find the name node {name}: {why}; {remedy}"))?)
}

fn device(config: &Config) -> Result<(), Failure> {
    let chosen = choose(config.gpu, config.cudnn, config.cuda_libraries.as_deref()).map_err(EngineError::from)?;
    let line = match config.json {
        true => {
            let is_gpu = matches!(chosen, Chosen::Gpu(_));
            serde_json::json!({ "gpu": is_gpu, "why": chosen.to_string() }).to_string()
        }
        false => chosen.to_string(),
    };
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn evaluate(context: &Context, model: &Path, data: &Path, hidden: &[usize]) -> Result<(), Failure> {
    let network = NeuralNetwork::dense(784, hidden, 10)?;
    let parameters = match model.to_str().filter(|model| model.contains("://")) {
        Some(url) => network.load_from(context, url)?,
        None => network.load(model)?,
    };
    let test = Mnist::open(data)?.test;
    let test = context.parallelize(test.split(8)?, 8);
    let report = network.error(&test, &parameters)?;
    let (Some(correct), Some(accuracy)) = (report.correct, report.accuracy()) else {
        return Err(format!("{} has no test images; name another folder", data.display()).into());
    };
    let samples = report.samples;
    let line = if context.config().json {
        serde_json::json!({ "correct": correct, "samples": samples, "accuracy": accuracy }).to_string()
    } else {
        format!("{correct} of {samples} right ({:.2}%)", 100.0 * accuracy)
    };
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
