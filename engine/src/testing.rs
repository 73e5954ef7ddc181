//! Several processes inside one, for tests: real members, real links over Unix sockets and a real name node, but each
//! process is a thread that runs the driver program, and a killed one drops out without a word. Hundreds of clusters
//! live and die in seconds that way, with faults at exact points.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use distdl_storage::{BlockStore, StoreOptions};

use crate::cluster::chaos::{Chaos, ChaosPlan};
use crate::cluster::events::ClusterEvent;
use crate::cluster::handshake::Credentials;
use crate::cluster::join::{Join, role_of};
use crate::cluster::journal::Journal;
use crate::cluster::member::{Fate, Member, Vanish};
use crate::cluster::name_node::Options;
use crate::cluster::protocol::Address;
use crate::cluster::secrets::Secrets;
use crate::cluster::server::{Server, ServerHandle, Setup, Spawner};
use crate::cluster::socket::Listener;
use crate::config::Config;
use crate::context::Context;
use crate::dataflow::workers::Transport;
use crate::error::{EngineError, Result};

/// A cluster to be run in this process.
#[derive(Debug, Clone)]
pub struct TestCluster {
    /// Logical processes.
    pub processes: u32,
    /// Of these, how many are for parameters only.
    pub parameter_workers: u32,
    /// Processes that stand by.
    pub spares: u32,
    /// Worker threads of each.
    pub threads: usize,
    /// Faults, in the words of `--chaos`.
    pub chaos: Chaos,
    /// Lost processes that are started again, in all.
    pub restarts_max: u32,
    /// Memory for blocks in each process, in bytes.
    pub memory_bytes_max: u64,
}

/// How a run ended.
#[derive(Debug)]
pub struct Run<R> {
    /// What the driver program returned in each life of a process that was not killed.
    pub results: Vec<R>,
    /// What happened.
    pub events: Vec<ClusterEvent>,
}

impl TestCluster {
    /// A cluster of some processes with one worker each, in which nothing goes wrong.
    pub fn new(processes: u32) -> Self {
        Self {
            processes,
            parameter_workers: 0,
            spares: 0,
            threads: 1,
            chaos: Chaos::default(),
            restarts_max: 64,
            memory_bytes_max: 1 << 30,
        }
    }

    /// Plans faults.
    #[must_use]
    pub fn with_chaos(self, chaos: Chaos) -> Self {
        Self { chaos, ..self }
    }

    /// Runs a driver program in every process.
    ///
    /// # Errors
    /// If the cluster ended with an error: the program's, or that too many processes were lost.
    pub fn run<R: Send + 'static>(
        &self,
        program: impl Fn(&Context) -> Result<R> + Send + Sync + 'static,
    ) -> Result<Run<R>> {
        let failed = |error: &dyn std::fmt::Display| EngineError::LeftCluster {
            reason: error.to_string(),
        };
        let secrets = Secrets::random().map_err(|error| failed(&error))?;
        let listener = Listener::bind_local().map_err(|error| failed(&error))?;
        let shared = Arc::new(Shared {
            cluster: self.clone(),
            secrets: secrets.clone(),
            name_node: listener.address(),
            program: Box::new(program),
            lives: Mutex::default(),
            handle: Mutex::default(),
            results: Mutex::default(),
        });
        let credentials = Credentials::new(secrets.cluster, &secrets.token, distdl_storage::program_fingerprint());
        let options = Options {
            processes: self.processes,
            spares: self.spares,
            restarts_max: self.restarts_max,
            lease: Duration::from_secs(60),
            ..Options::default()
        };
        let journal = Journal::temporary().map_err(|error| failed(&error))?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&events);
        let server = Server::start(Setup {
            listener,
            credentials,
            options,
            journal: (journal, Vec::new()),
            spawner: Box::new(Threads(Arc::clone(&shared))),
            notes: Box::new(move |event| lock(&noted).push(event)),
            chaos: ChaosPlan::default(),
        });
        let server = server.map_err(|error| failed(&error))?;
        *lock(&shared.handle) = Some(server.handle());
        let outcome = server.wait();
        *lock(&shared.handle) = None;
        let threads: Vec<_> = lock(&shared.lives)
            .values_mut()
            .flat_map(|slot| slot.threads.drain(..))
            .collect();
        for life in lock(&shared.lives).values() {
            life.vanish();
        }
        for thread in threads {
            let _ = thread.join();
        }
        outcome.map_err(|reason| EngineError::LeftCluster { reason })?;
        let results = std::mem::take(&mut *lock(&shared.results));
        let events = std::mem::take(&mut *lock(&events));
        Ok(Run { results, events })
    }
}

type Program<R> = Box<dyn Fn(&Context) -> Result<R> + Send + Sync>;

struct Shared<R> {
    cluster: TestCluster,
    secrets: Secrets,
    name_node: Address,
    program: Program<R>,
    lives: Mutex<HashMap<u32, Slot>>,
    handle: Mutex<Option<ServerHandle>>,
    results: Mutex<Vec<R>>,
}

/// The lives of the processes of one slot.
#[derive(Default)]
struct Slot {
    count: u32,
    threads: Vec<JoinHandle<()>>,
    current: Option<Vanish>,
}

impl Slot {
    fn vanish(&self) {
        if let Some(vanish) = &self.current {
            vanish.vanish();
        }
    }
}

struct Threads<R>(Arc<Shared<R>>);

impl<R: Send + 'static> Spawner for Threads<R> {
    fn start(&mut self, slot: u32) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        let mut lives = lock(&self.0.lives);
        let entry = lives.entry(slot).or_default();
        let life = entry.count;
        entry.count += 1;
        let thread = std::thread::Builder::new().name(format!("process-{slot}.{life}"));
        entry.threads.push(thread.spawn(move || shared.live(slot, life))?);
        Ok(())
    }

    fn kill(&mut self, slot: u32) {
        if let Some(slot) = lock(&self.0.lives).get(&slot) {
            slot.vanish();
        }
    }
}

impl<R: Send + 'static> Shared<R> {
    /// One life of a process, from start to end.
    fn live(self: Arc<Self>, slot: u32, life: u32) {
        let cause = match self.run(slot, life) {
            Ok(()) => "exit code 0".to_owned(),
            Err(error) => error.to_string(),
        };
        let handle = lock(&self.handle).clone();
        if let Some(handle) = handle {
            handle.exited(slot, cause);
        }
    }

    fn run(&self, slot: u32, life: u32) -> Result<()> {
        let cluster = &self.cluster;
        let join = Join {
            name_node: self.name_node.clone(),
            secrets: self.secrets.clone(),
            slot: Some(slot),
            life,
            role: role_of(slot, cluster.processes as usize, cluster.parameter_workers as usize),
            name_node_grace: Duration::ZERO,
            bind: None,
            advertise: None,
            parent: None,
        };
        let plan = cluster.chaos.plan_for_slot(slot, life);
        let member = Member::join(join, cluster.threads, plan, Fate::Vanish)?;
        if let Some(entry) = lock(&self.lives).get_mut(&slot) {
            entry.current = Some(member.vanisher());
        }
        let store = BlockStore::new(StoreOptions {
            memory_bytes_max: cluster.memory_bytes_max,
            ..StoreOptions::default()
        })?;
        let config = Config::default().with_threads(cluster.threads);
        let context = Context::assemble(config, store, Transport::Pointers, Some(member))?;
        match (self.program)(&context) {
            Ok(result) => {
                // A killed process has no result, even if it does not know yet.
                if context.leave(None) {
                    lock(&self.results).push(result);
                }
                Ok(())
            }
            Err(error) => {
                context.leave(Some(error.to_string()));
                Err(error)
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
