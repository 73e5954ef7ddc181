//! Several processes inside one, for tests: real members, real links over Unix sockets and a real name node, but each
//! process is a thread that runs the driver program, and a killed one drops out without a word. Hundreds of clusters
//! live and die in seconds that way, with faults at exact points. And [emulated GPUs](emulated_gpu), and what
//! [fuzzing](fuzz) feeds.

pub mod fuzz;
pub mod emulated_gpu;

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;
use distdl_storage::remote::ObjectStore;

use crate::cluster::arithmetic::Arithmetic;
use crate::cluster::chaos::{Chaos, ChaosPlan};
use crate::cluster::events::ClusterEvent;
use crate::cluster::handshake::Credentials;
use crate::cluster::identity::Address;
use crate::cluster::join::{Join, role_of};
use crate::cluster::journal::Journal;
use crate::cluster::member::{Capacity, Fate, Member, Vanish};
use crate::cluster::name_node::Options;
use crate::cluster::secrets::Secrets;
use crate::cluster::server::{KILLED, Server, ServerHandle, Setup, Spawner};
use crate::cluster::socket::Listener;
use crate::config::Config;
use crate::context::Context;
use crate::dataflow::workers::Transport;
use crate::error::{EngineError, Result, panic_text};

/// A cluster that takes longer hangs: a test says so instead of hanging too.
const TIME_MAX: Duration = Duration::from_secs(120);

/// How long the address of a killed name node may stay in use.
const REBIND_TIME_MAX: Duration = Duration::from_secs(10);

/// Room for what the actions of a test come to.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;

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
    /// Disk for blocks and for what finds no room in memory, in bytes.
    pub disk_bytes_max: u64,
    /// What the name node's journal may take, in bytes.
    pub journal_bytes_max: u64,
    /// The folder for it, which the processes share. None: that of the system for temporary files.
    pub spill_folder: Option<PathBuf>,
    /// How long an action runs before what is sent into its shuffles is kept.
    pub keep_shuffles_after: Duration,
    /// After how long a silence a process computes the tasks of others, too, if it does; the processes take them in
    /// turn by their place. Empty: nobody does.
    pub speculate_after: Vec<Option<Duration>>,
    /// Whether processes exchange parameters through memory that they share.
    pub shared_memory: bool,
    /// Records in a batch.
    pub batch_records: usize,
    /// Cache folders, which the processes take in turn by their place. None: no process has a cache.
    pub caches: Vec<PathBuf>,
    /// Objects of `memory://` that all processes see, as those of a remote store. None: each has a memory of its own.
    pub objects: Option<Arc<dyn ObjectStore>>,
    /// Beginnings of URLs whose objects only grow.
    pub cache_grows_only: Vec<String>,
    /// Bytes of computed blocks in each cache folder.
    pub memo_bytes_max: u64,
    /// Steps after which a lineage is cut.
    pub cut_lineage_every: Option<usize>,
    /// How long processes look for a name node that was killed, which is then started again. Zero: nobody does either.
    pub name_node_grace: Duration,
    /// A process of which nothing is heard for so long is lost. Heartbeats are real, so a short lease makes a slow
    /// machine lose processes by itself.
    pub lease: Duration,
}

/// How a run ended.
#[derive(Debug)]
pub struct Run<R> {
    /// What the driver program returned in each life of a process that was not killed.
    pub results: Vec<R>,
    /// What happened.
    pub events: Vec<ClusterEvent>,
}

/// One life of a logical process, for driver programs of tests that do things to it.
#[derive(Clone)]
pub struct Life {
    /// Which place of the cluster the process fills.
    pub slot: u32,
    /// How many were in this place before.
    pub number: u32,
    vanish: Vanish,
    name_node: NameNode,
}

impl std::fmt::Debug for Life {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Life {{ slot: {}, number: {} }}", self.slot, self.number)
    }
}

impl Life {
    /// Whether the process lives: it was not killed and has not left.
    pub fn lasts(&self) -> bool {
        self.vanish.is_member()
    }

    /// Kills the process.
    pub fn kill(&self) {
        self.vanish.vanish();
    }

    /// Kills the name node; see [`TestCluster::name_node_grace`].
    pub fn kill_name_node(&self) {
        if let Some(handle) = &*self.name_node.lock().unpoisoned() {
            handle.vanish();
        }
    }
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
            disk_bytes_max: Config::default().disk_bytes_max,
            journal_bytes_max: JOURNAL_BYTES_MAX,
            spill_folder: None,
            keep_shuffles_after: Config::default().keep_shuffles_after,
            speculate_after: Vec::new(),
            shared_memory: true,
            batch_records: Config::default().batch_records,
            caches: Vec::new(),
            objects: None,
            cache_grows_only: Vec::new(),
            memo_bytes_max: Config::default().memo_bytes_max,
            cut_lineage_every: None,
            name_node_grace: Duration::ZERO,
            lease: Duration::from_secs(60),
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
        self.run_lives(move |context, _| program(context))
    }

    /// Runs a driver program in every process that knows which it is. A panic of it ends the process with an error.
    ///
    /// # Errors
    /// As [`TestCluster::run`].
    pub fn run_lives<R: Send + 'static>(
        &self,
        program: impl Fn(&Context, &Life) -> Result<R> + Send + Sync + 'static,
    ) -> Result<Run<R>> {
        let secrets = Secrets::random().map_err(|error| failed(&error))?;
        let listener = Listener::bind_local().map_err(|error| failed(&error))?;
        let shared = Arc::new(Shared {
            cluster: self.clone(),
            secrets,
            address: listener.address(),
            program: Box::new(program),
            lives: Mutex::default(),
            name_node: NameNode::default(),
            results: Mutex::default(),
            events: Arc::default(),
        });
        let (over, waits) = channel::<()>();
        let watched = Arc::clone(&shared);
        let watchdog = std::thread::spawn(move || {
            let hangs = waits.recv_timeout(TIME_MAX) == Err(RecvTimeoutError::Timeout);
            if hangs {
                watched.end();
            }
            hangs
        });
        let outcome = shared.serve(listener);
        drop(over);
        let hangs = watchdog.join().unwrap_or(false);
        let threads = shared.end();
        if hangs {
            let events = shared.events.lock().unpoisoned();
            return Err(failed(&format!("the cluster hangs; what happened: {events:?}")));
        }
        for thread in threads {
            let _ = thread.join();
        }
        outcome?;
        let results = std::mem::take(&mut *shared.results.lock().unpoisoned());
        let events = std::mem::take(&mut *shared.events.lock().unpoisoned());
        Ok(Run { results, events })
    }
}

type Program<R> = Box<dyn Fn(&Context, &Life) -> Result<R> + Send + Sync>;
type NameNode = Arc<Mutex<Option<ServerHandle>>>;

struct Shared<R> {
    cluster: TestCluster,
    secrets: Secrets,
    address: Address,
    program: Program<R>,
    lives: Mutex<Lives>,
    name_node: NameNode,
    results: Mutex<Vec<R>>,
    events: Arc<Mutex<Vec<ClusterEvent>>>,
}

#[derive(Default)]
struct Lives {
    slots: HashMap<u32, TestSlot>,
    /// Whether all is over: who comes now is killed.
    ended: bool,
}

/// The lives of the processes of one slot.
#[derive(Default)]
struct TestSlot {
    count: u32,
    threads: Vec<JoinHandle<()>>,
    current: Option<Vanish>,
}

impl TestSlot {
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
        let mut lives = self.0.lives.lock().unpoisoned();
        let entry = lives.slots.entry(slot).or_default();
        let life = entry.count;
        entry.count += 1;
        let thread = std::thread::Builder::new().name(format!("process-{slot}.{life}"));
        entry.threads.push(thread.spawn(move || shared.live(slot, life))?);
        Ok(())
    }

    fn kill(&mut self, slot: u32) {
        if let Some(slot) = self.0.lives.lock().unpoisoned().slots.get(&slot) {
            slot.vanish();
        }
    }
}

impl<R: Send + 'static> Shared<R> {
    /// Runs the name node, again and again if it is killed, until the cluster has ended.
    fn serve(self: &Arc<Self>, listener: Listener) -> Result<()> {
        let folder = tempfile::tempdir().map_err(|error| failed(&error))?;
        let mut chaos = self.cluster.chaos.plan_for_name_node();
        let mut listener = Some(listener);
        loop {
            let bound = listener.take().map_or_else(|| bind_again(&self.address), Ok);
            let server = self.name_node(bound.map_err(|error| failed(&error))?, folder.path(), chaos)?;
            *self.name_node.lock().unpoisoned() = Some(server.handle());
            if self.lives.lock().unpoisoned().ended {
                server.handle().vanish();
            }
            let outcome = server.wait();
            *self.name_node.lock().unpoisoned() = None;
            match outcome {
                Err(reason) if reason == KILLED && self.goes_on() => chaos = ChaosPlan::default(),
                outcome => return outcome.map_err(|reason| failed(&reason)),
            }
        }
    }

    fn goes_on(&self) -> bool {
        !self.cluster.name_node_grace.is_zero() && !self.lives.lock().unpoisoned().ended
    }

    fn name_node(self: &Arc<Self>, listener: Listener, folder: &Path, chaos: ChaosPlan) -> Result<Server> {
        let (cluster, secrets) = (&self.cluster, &self.secrets);
        let noted = Arc::clone(&self.events);
        let server = Server::start(Setup {
            listener,
            credentials: Credentials::new(secrets.cluster, &secrets.token, distdl_storage::program_fingerprint()),
            options: Options {
                processes: cluster.processes,
                spares: cluster.spares,
                restarts_max: cluster.restarts_max,
                lease: cluster.lease,
                ..Options::default()
            },
            journal: Journal::open(folder, cluster.journal_bytes_max).map_err(|error| failed(&error))?,
            spawner: Box::new(Threads(Arc::clone(self))),
            progress: None,
            notes: Box::new(move |event| noted.lock().unpoisoned().push(event)),
            chaos,
            fate: Fate::Vanish,
        });
        server.map_err(|error| failed(&error))
    }

    /// Kills what still lives, the name node included.
    fn end(&self) -> Vec<JoinHandle<()>> {
        if let Some(handle) = &*self.name_node.lock().unpoisoned() {
            handle.vanish();
        }
        let mut lives = self.lives.lock().unpoisoned();
        lives.ended = true;
        lives.slots.values().for_each(TestSlot::vanish);
        let threads = lives.slots.values_mut().flat_map(|slot| slot.threads.drain(..));
        threads.collect()
    }

    /// One life of a process, from start to end.
    fn live(self: Arc<Self>, slot: u32, number: u32) {
        let cause = match self.run(slot, number) {
            Ok(()) => "exit code 0".to_owned(),
            Err(error) => error.to_string(),
        };
        let handle = self.name_node.lock().unpoisoned().clone();
        if let Some(handle) = handle {
            handle.exited(slot, Some(std::process::id()), cause);
        }
    }

    fn run(&self, slot: u32, number: u32) -> Result<()> {
        let cluster = &self.cluster;
        let plan = cluster.chaos.plan_for_slot(slot, number);
        let speculate_after = cluster.speculate_after.iter().cycle().nth(slot as usize);
        let speculate_after = speculate_after.copied().flatten();
        let capacity = Capacity {
            threads: cluster.threads,
            speculates: speculate_after.is_some(),
            arithmetic: Arithmetic::ANY,
        };
        let member = Member::join(self.join(slot, number), capacity, plan, Fate::Vanish)?;
        let vanish = member.vanisher();
        {
            let mut lives = self.lives.lock().unpoisoned();
            if lives.ended {
                vanish.vanish();
            }
            lives.slots.entry(slot).or_default().current = Some(vanish.clone());
        }
        let life = Life {
            slot,
            number,
            vanish,
            name_node: Arc::clone(&self.name_node),
        };
        let config = Config {
            batch_records: cluster.batch_records,
            memory_bytes_max: cluster.memory_bytes_max,
            disk_bytes_max: cluster.disk_bytes_max,
            spill_folder: cluster.spill_folder.clone(),
            keep_shuffles_after: cluster.keep_shuffles_after,
            speculate_after,
            shared_memory: cluster.shared_memory,
            cache_folder: cluster.caches.iter().cycle().nth(slot as usize).cloned(),
            cache_grows_only: cluster.cache_grows_only.clone(),
            memo_bytes_max: cluster.memo_bytes_max,
            cut_lineage_every: cluster.cut_lineage_every,
            ..Config::default()
        };
        let config = config.with_threads(cluster.threads);
        let store = Context::store_for(&config)?;
        let context = Context::assemble(
            config,
            store,
            cluster.objects.clone(),
            Transport::Pointers,
            Some(member),
        )?;
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.program)(&context, &life)));
        match outcome.unwrap_or_else(|panic| Err(failed(&panic_text(panic.as_ref())))) {
            Ok(result) => {
                // A killed process has no result, even if it does not know yet.
                if context.leave(None) {
                    self.results.lock().unpoisoned().push(result);
                }
                Ok(())
            }
            Err(error) => {
                context.leave(Some(error.to_string()));
                Err(error)
            }
        }
    }

    fn join(&self, slot: u32, life: u32) -> Join {
        let cluster = &self.cluster;
        Join {
            name_node: self.address.clone(),
            secrets: self.secrets.clone(),
            slot: Some(slot),
            life,
            role: role_of(slot, cluster.processes as usize, cluster.parameter_workers as usize),
            name_node_grace: cluster.name_node_grace,
            bind: None,
            port: 0,
            advertise: None,
            parent: None,
            is_child: false,
        }
    }
}

/// Listens where the killed name node did, whose threads let go of it one after another.
fn bind_again(address: &Address) -> io::Result<Listener> {
    let deadline = Instant::now() + REBIND_TIME_MAX;
    loop {
        match Listener::bind_again(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            bound => return bound,
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> EngineError {
    EngineError::LeftCluster {
        reason: error.to_string(),
    }
}
