//! The entry to the engine: workers, stores and the graph of datasets.

mod action_guard;
mod bars;
mod blocks;
mod datasets;
mod limits;
mod notice;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use distdl_storage::object::place;
use distdl_storage::remote::{CacheOptions, ObjectStore, Stores, StoresOptions};
use distdl_storage::{BlockStore, Digest, Memo, Record, StoreFigures, StoreOptions, Unpoisoned};

pub(crate) use self::action_guard::{ActionGuard, action_on};
use self::bars::Bars;
pub use self::notice::Notice;
use crate::accumulator::{Accumulator, Accumulators};
use crate::batch::RecordType;
use crate::broadcast::Broadcast;
use crate::cancel::Cancellation;
use crate::cluster::arithmetic::Arithmetic;
use crate::cluster::chaos::Chaos;
use crate::cluster::join::{Join, OrphanError};
use crate::cluster::member::{Capacity, Fate, Faults, Member};
use crate::config::{Config, GpuUse};
use crate::dataflow::workers::{Transport, Workers};
use crate::device::{self, Chosen};
#[cfg(feature = "gpu")]
use crate::device::{CompileError, Compiler};
use crate::error::{EngineError, Result};
use crate::exclusive::Exclusive;
use crate::lineage::{Graph, Node, NodeSpec};
use crate::metrics::Metrics;
use crate::outputs::Outputs;
use crate::progress::Board;
use crate::task::Resources;

/// A handle on one engine: cheap to clone, usable from any thread. The workers end with the last handle.
///
/// Actions take turns, also those of several threads. So a closure must not wait for an action: one that it calls
/// itself ends with [`EngineError::NestedAction`], and one in another thread that it waits for would wait for ever. Of
/// several processes each must run the same actions in the same order: there one thread runs them all.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: Config,
    graph: Mutex<Graph>,
    workers: Workers,
    /// The cluster that this process belongs to, if it does. Dropped before the stores of objects, which wait for what
    /// they read ahead: that may wait for another process until the membership ends.
    member: Option<Member>,
    resources: Arc<Resources>,
    /// Actions run one after another: in every process in the same order.
    action: Arc<Exclusive>,
    cancellation: Cancellation,
    accumulators: Arc<Accumulators>,
    /// Number of the next action.
    actions: AtomicU64,
    _bars: Option<Bars>,
    /// Local checkpoints are made one after another: none may see what another has begun and perhaps takes back.
    local_checkpoint: Arc<Exclusive>,
    /// Checkpoints so far, by where they are and what they hold.
    checkpoints: Mutex<HashMap<(String, Digest), Ordinal>>,
    /// What computes, once it has been asked for.
    device: OnceLock<Chosen>,
    #[cfg(feature = "gpu")]
    compiler: OnceLock<std::result::Result<Arc<Compiler>, CompileError>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Context")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Starts the workers that `config` asks for, in this process. A program of many processes begins with
    /// `distdl::run`, or with [`run_name_node`](crate::cluster::run_name_node) and contexts whose configuration says
    /// what they [join](Config::join).
    ///
    /// # Errors
    /// If `config` has a value out of its range or settings that do not go together ([`Config::check`]), faults that
    /// cannot be read, or asks for more processes, threads cannot be started, a folder for blocks or the cache cannot
    /// be used, or a GPU must compute and there is none.
    pub fn new(config: Config) -> Result<Self> {
        config.check()?;
        Chaos::parse(config.chaos.as_deref().unwrap_or_default())?;
        if config.processes > 1 && config.join.is_none() {
            return Err(EngineError::invalid(
                format!(
                    "a context is one process, and the configuration asks for {}",
                    config.processes
                ),
                "begin the program with `distdl::run`, which starts them, or leave out `processes`",
            ));
        }
        let chosen = match (others_use_gpus(&config)?, config.gpu) {
            (Some(count), _) => Some(Chosen::Others(count)),
            (None, GpuUse::On) => Some(device::choose(
                config.gpu,
                config.cudnn,
                config.cuda_libraries.as_deref(),
            )?),
            (None, GpuUse::Auto | GpuUse::Off) => None,
        };
        let store = Self::store_for(&config)?;
        let member = match &config.join {
            Some(join) => Some(join_cluster(&config, join.reveal())?),
            None => None,
        };
        let context = Self::assemble(config, store, None, Transport::Pointers, member)?;
        if let Some(chosen) = chosen {
            let _ = context.inner.device.set(chosen);
        }
        Ok(context)
    }

    /// The store of blocks that `config` asks for.
    pub(crate) fn store_for(config: &Config) -> Result<BlockStore> {
        let options = StoreOptions {
            memory_bytes_max: config.memory_bytes_max,
            disk_bytes_max: config.disk_bytes_max,
            folder: config.spill_folder.clone(),
        };
        Ok(match &config.cache_folder {
            Some(cache) => {
                let memo = Memo::new(cache.join("computed"), config.memo_bytes_max);
                BlockStore::with_memo(options, Arc::new(memo))?
            }
            None => BlockStore::new(options)?,
        })
    }

    /// A context over a given store and transport, for tests of faults, and perhaps with objects of `memory://` that
    /// others see too.
    pub(crate) fn assemble(
        config: Config,
        store: BlockStore,
        objects: Option<Arc<dyn ObjectStore>>,
        transport: Transport,
        member: Option<Member>,
    ) -> Result<Self> {
        let resources = Arc::new(Resources {
            store: Arc::new(store),
            workers: config.threads,
            stores: Arc::new(Self::remote_stores(&config, objects)?),
            batch_records: config.batch_records,
            metrics: Metrics::default(),
            notices: Arc::default(),
            outputs: Outputs::new(config.keep_shuffles_after, config.disk_bytes_max / 2),
            speculate_after: config.speculate_after,
            copied_in: Mutex::default(),
            board: Board::default(),
            faults: OnceLock::new(),
        });
        if let Some(member) = &member {
            let _ = resources.faults.set(member.faults());
            member.share(&resources.stores, &resources.notices);
        }
        let bars = match config.shows_jobs() {
            true => Some(bars::draw(&resources)?),
            false => None,
        };
        let workers = Workers::start(config.threads, transport)?;
        let inner = Inner {
            config,
            graph: Mutex::default(),
            workers,
            resources,
            action: Arc::default(),
            cancellation: Cancellation::default(),
            accumulators: Arc::default(),
            member,
            actions: AtomicU64::new(0),
            _bars: bars,
            local_checkpoint: Arc::default(),
            checkpoints: Mutex::default(),
            device: OnceLock::new(),
            #[cfg(feature = "gpu")]
            compiler: OnceLock::new(),
        };
        let context = Self { inner: Arc::new(inner) };
        context.answer_others();
        Ok(context)
    }

    /// The stores of objects that `config` asks for, with the cache in front of them.
    fn remote_stores(config: &Config, objects: Option<Arc<dyn ObjectStore>>) -> Result<Stores> {
        let cache = config.cache_folder.as_ref().map(|folder| CacheOptions {
            bytes_max: config.cache_bytes_max,
            grows_only: config.cache_grows_only.clone(),
            read_ahead_bytes_max: config.read_ahead_bytes_max,
            includes_memory: objects.is_some(),
            ..CacheOptions::new(folder)
        });
        let options = StoresOptions {
            read_bytes_max: config.read_bytes_max,
            list_objects_max: config.list_objects_max,
            requests_max: config.requests_max,
            request_timeout: config.request_timeout,
            cache,
            ..StoresOptions::default()
        };
        let stores = match objects {
            Some(objects) => Stores::over(objects, options),
            None => Stores::with_options(options),
        };
        stores.check_cache()?;
        Ok(stores)
    }

    /// Has the other processes of the cluster, if this is one of it, served with this context's blocks, as long as it
    /// lives.
    fn answer_others(&self) {
        let Some(member) = self.member() else { return };
        let weak = self.downgrade();
        member.serve(Arc::new(move |block| match weak.upgrade() {
            Ok(context) => context.block_frame(block).map_err(|error| error.to_string()),
            Err(_) => Ok(None),
        }));
        let weak = Arc::downgrade(self.resources());
        member.tell(Arc::new(move || weak.upgrade()?.progress()));
        let weak = self.downgrade();
        member.keep(Arc::new(move |block, frame| {
            weak.upgrade()
                .is_ok_and(|context| context.keep_copy(block, frame).is_some())
        }));
    }

    /// This process's membership, if it belongs to a cluster.
    pub(crate) fn member(&self) -> Option<&Member> {
        self.inner.member.as_ref()
    }

    /// Whether this process is one of a cluster that runs the program together.
    pub fn is_in_cluster(&self) -> bool {
        self.member().is_some()
    }

    /// Says that the driver program is over, to the cluster that this process belongs to: the others need not wait for
    /// it. Returns whether the process belonged to one until now.
    pub fn leave(&self, error: Option<String>) -> bool {
        self.member().is_some_and(|member| member.leave(error))
    }

    /// Whether the name node of its cluster has started this process as a child, and shows what it prints.
    pub fn is_child(&self) -> bool {
        self.member().is_some_and(Member::is_child)
    }

    /// Whether a path names the same file in all processes.
    pub(crate) fn is_on_one_host(&self) -> bool {
        self.member().is_none_or(Member::is_on_one_host)
    }

    /// Has this process end if it is no member of its cluster any more (it was counted as lost, or the name node is
    /// gone) and its program, which is told with the next action, goes on for some seconds. For processes that are
    /// nothing else.
    pub fn end_process_with_membership(&self) {
        if let Some(member) = self.member() {
            member.end_process_with_it();
        }
    }

    pub(crate) fn resources(&self) -> &Arc<Resources> {
        &self.inner.resources
    }

    pub(crate) fn accumulators(&self) -> &Arc<Accumulators> {
        &self.inner.accumulators
    }

    /// The number of the action that begins.
    pub(crate) fn next_action(&self) -> u64 {
        self.inner.actions.fetch_add(1, Ordering::SeqCst)
    }

    /// Points at which faults may be planned for this process, if it belongs to a cluster.
    pub fn faults(&self) -> Option<&Faults> {
        self.inner.resources.faults.get()
    }

    /// Workers that are slowed on purpose, counted through all processes, and by how many times.
    pub(crate) fn slowed(&self) -> Result<Vec<(usize, u32)>> {
        let chaos = Chaos::parse(self.config().chaos.as_deref().unwrap_or_default())?;
        Ok(chaos.slowed().collect())
    }

    /// Whether it is the same, and not another one in this process.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The configuration that this context was made with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// What computes, and why. A GPU that must be there is looked for when the context starts, one that may be there
    /// when this is first asked: programs that do not ask do not wait for a driver.
    pub fn device(&self) -> &Chosen {
        self.inner.device.get_or_init(|| {
            let config = self.config();
            let chosen = device::choose(config.gpu, config.cudnn, config.cuda_libraries.as_deref());
            let chosen = chosen.unwrap_or_else(Chosen::Without);
            match &chosen {
                Chosen::Without(_) if config.cudnn => tracing::warn!("{chosen}"),
                _ => tracing::info!("{chosen}"),
            }
            chosen
        })
    }

    /// The compiler of kernels for GPUs, with what it has compiled so far; what it has compiled earlier it finds in the
    /// cache folder, if there is one.
    ///
    /// # Errors
    /// It is missing.
    #[cfg(feature = "gpu")]
    pub fn compiler(&self) -> std::result::Result<Arc<Compiler>, CompileError> {
        let open = || {
            let config = self.config();
            let cache = config.cache_folder.as_ref().map(|folder| folder.join("kernels"));
            Compiler::open(config.cuda_libraries.as_deref(), cache.as_deref()).map(Arc::new)
        };
        self.inner.compiler.get_or_init(open).clone()
    }

    /// Counters of what was done.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.resources.metrics
    }

    /// The blocks of persisted datasets.
    pub fn store(&self) -> &Arc<BlockStore> {
        &self.inner.resources.store
    }

    /// Files and remote objects.
    pub fn stores(&self) -> &Arc<Stores> {
        &self.inner.resources.stores
    }

    /// What reading remote objects has cost: all processes of the cluster up to the last action, or this process so
    /// far.
    pub fn reading(&self) -> StoreFigures {
        let of_all = self.member().and_then(Member::cluster_has_read);
        of_all.unwrap_or_else(|| self.stores().figures())
    }

    /// Number of datasets that are alive: those with a handle, and what they are derived from.
    pub fn live_datasets(&self) -> usize {
        self.inner.graph.lock().unpoisoned().len()
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.inner.workers
    }

    /// An accumulator that starts at `empty` and grows by `add`, which must be associative, and cannot ask for its
    /// value.
    #[track_caller]
    pub fn accumulator<T: Record>(&self, empty: T, add: impl Fn(&mut T, T) + Send + Sync + 'static) -> Accumulator<T> {
        self.inner.accumulators.register(self.resources(), empty, add)
    }

    /// A counter that starts at 0.
    #[track_caller]
    pub fn counter(&self) -> Accumulator<u64> {
        self.accumulator(0, |total, update| *total += update)
    }

    /// A read-only value for closures, which all tasks of a process share. Each process makes its own, as it runs the
    /// driver program: it must be the same in all.
    pub fn broadcast<T: Send + Sync + 'static>(&self, value: T) -> Broadcast<T> {
        Broadcast::new(value)
    }

    pub(crate) fn downgrade(&self) -> WeakContext {
        WeakContext {
            inner: Arc::downgrade(&self.inner),
        }
    }

    pub(crate) fn insert(&self, spec: NodeSpec, record_type: RecordType) -> Handle {
        let node = self.inner.graph.lock().unpoisoned().insert(spec, record_type);
        Handle {
            context: self.clone(),
            node,
        }
    }

    /// How many checkpoints of one computation were asked for at `url` before; none once one of them has failed.
    pub(crate) fn next_checkpoint(&self, url: &str, computation: Digest) -> Option<u64> {
        let mut checkpoints = self.inner.checkpoints.lock().unpoisoned();
        let next = checkpoints.entry((place(url), computation)).or_insert(Ordinal(Some(0)));
        let ordinal = next.0?;
        next.0 = Some(ordinal + 1);
        Some(ordinal)
    }

    /// A checkpoint has failed: whether the program tries that one again or goes on to the next, nobody can tell.
    pub(crate) fn checkpoint_failed(&self, url: &str, computation: Digest) {
        self.inner
            .checkpoints
            .lock()
            .unpoisoned()
            .insert((place(url), computation), Ordinal(None));
    }
}

/// Of the next checkpoint of a computation at a place, while it says which of several it is.
struct Ordinal(Option<u64>);

/// How many processes are to use a GPU, if this one is beyond them.
fn others_use_gpus(config: &Config) -> Result<Option<usize>> {
    let Some(count) = config.gpu_processes else {
        return Ok(None);
    };
    let place = match &config.join {
        Some(join) => Join::from_text(join.reveal())?.slot.unwrap_or_default(),
        None => 0,
    };
    Ok(Some(count).filter(|count| place as usize >= *count))
}

/// Joins the cluster for which another process started this one.
fn join_cluster(config: &Config, join: &str) -> Result<Member> {
    let join = Join::from_text(join)?;
    let orphan = |error: OrphanError| EngineError::LeftCluster {
        reason: error.to_string(),
    };
    join.tie_to_parent().map_err(orphan)?;
    let chaos = Chaos::parse(config.chaos.as_deref().unwrap_or_default())?;
    let plan = chaos.plan_for_slot(join.slot.unwrap_or_default(), join.life);
    let capacity = Capacity {
        threads: config.threads,
        speculates: config.speculate_after.is_some(),
        arithmetic: match config.unlike_machines {
            true => Arithmetic::ANY,
            false => Arithmetic::of_this_machine(),
        },
    };
    Member::join(join, capacity, plan, Fate::Signal)
}

/// A context that this does not keep alive: for what lives inside the graph.
#[derive(Clone)]
pub(crate) struct WeakContext {
    inner: std::sync::Weak<Inner>,
}

impl WeakContext {
    pub(crate) fn upgrade(&self) -> Result<Context> {
        let inner = self.inner.upgrade();
        let reason = || EngineError::WorkersStopped {
            reason: "the context was dropped".into(),
        };
        inner.map(|inner| Context { inner }).ok_or_else(reason)
    }
}

/// A reference to a dataset in the graph; dropping the last one drops the dataset and its blocks.
pub(crate) struct Handle {
    pub(crate) context: Context,
    pub(crate) node: Arc<Node>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let removed = self.context.inner.graph.lock().unpoisoned().release(self.node.id);
        self.context.drop_nodes(&removed);
    }
}

#[cfg(test)]
mod tests;
