//! The entry to the engine: workers, stores and the graph of datasets.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use distdl_storage::remote::Stores;
use distdl_storage::{BlockStore, StoreOptions};

use crate::accumulator::{Accumulator, Accumulators};
use crate::batch::{AnyStream, TaskResult};
use crate::broadcast::Broadcast;
use crate::config::Config;
use crate::dataflow::workers::{Transport, Workers};
use crate::dataflow::{job, run};
use crate::error::{EngineError, Result};
use crate::id::DatasetId;
use crate::lineage::{Graph, Lineage, Node, NodeSpec};
use crate::metrics::Metrics;
use crate::task::{self, Resources, TaskContext};

/// A handle on one engine: cheap to clone, usable from any thread. The workers end with the last handle.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: Config,
    graph: Mutex<Graph>,
    workers: Workers,
    resources: Arc<Resources>,
    /// Actions run one after another: in every process in the same order.
    action: Mutex<()>,
    accumulators: Arc<Accumulators>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Starts the workers that `config` asks for.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn new(config: Config) -> Result<Self> {
        let options = StoreOptions {
            memory_bytes_max: config.memory_bytes_max,
            disk_bytes_max: config.disk_bytes_max,
            folder: config.spill_folder.clone(),
        };
        let store = BlockStore::new(options)?;
        Self::assemble(config, store, Transport::Pointers)
    }

    /// A context over a given store and transport, for tests of faults.
    pub(crate) fn assemble(config: Config, store: BlockStore, transport: Transport) -> Result<Self> {
        let resources = Arc::new(Resources {
            store,
            stores: Arc::new(Stores::new()),
            batch_records: config.batch_records.max(1),
            metrics: Metrics::default(),
        });
        let workers = Workers::start(config.threads.max(1), transport)?;
        let inner = Inner {
            config,
            graph: Mutex::default(),
            workers,
            resources,
            action: Mutex::default(),
            accumulators: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The configuration that this context was made with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Counters of what was done.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.resources.metrics
    }

    /// The blocks of persisted datasets.
    pub fn store(&self) -> &BlockStore {
        &self.inner.resources.store
    }

    /// Files and remote objects.
    pub fn stores(&self) -> &Arc<Stores> {
        &self.inner.resources.stores
    }

    /// Number of datasets that are alive: those with a handle, and what they are derived from.
    pub fn live_datasets(&self) -> usize {
        lock(&self.inner.graph).len()
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.inner.workers
    }

    /// An accumulator that starts at `empty` and grows by `add`, which must be associative.
    pub fn accumulator<T: Clone + Send + Sync + 'static>(
        &self,
        empty: T,
        add: impl Fn(&mut T, T) + Send + Sync + 'static,
    ) -> Accumulator<T> {
        self.inner.accumulators.register(empty, add)
    }

    /// A counter that starts at 0.
    pub fn counter(&self) -> Accumulator<u64> {
        self.accumulator(0, |total, update| *total += update)
    }

    /// A read-only value for closures: sent once to each process, not once a task.
    pub fn broadcast<T: Send + Sync + 'static>(&self, value: T) -> Broadcast<T> {
        Broadcast::new(value)
    }

    pub(crate) fn downgrade(&self) -> WeakContext {
        WeakContext {
            inner: Arc::downgrade(&self.inner),
        }
    }

    pub(crate) fn insert(&self, spec: NodeSpec) -> Handle {
        let node = lock(&self.inner.graph).insert(spec);
        Handle {
            context: self.clone(),
            node,
        }
    }

    pub(crate) fn lineage(&self, target: DatasetId) -> Lineage {
        lock(&self.inner.graph).lineage(target)
    }

    pub(crate) fn has_block(&self, dataset: DatasetId, partition: usize) -> bool {
        self.store().contains(dataset.block(partition))
    }

    /// Drops all blocks of a dataset. What cannot be removed from disk only costs room: it is never read again.
    pub(crate) fn drop_blocks(&self, dataset: DatasetId) {
        if let Err(error) = self.store().remove_dataset(dataset.0) {
            tracing::warn!(%dataset, "could not remove blocks: {error}");
        }
    }

    /// Takes the turn of an action.
    pub(crate) fn begin_action(&self) -> Result<MutexGuard<'_, ()>> {
        if task::is_inside() {
            return Err(EngineError::NestedAction);
        }
        Ok(lock(&self.inner.action))
    }

    /// Runs `reduce` over `partitions` of a dataset; one result each, in the order of `partitions`.
    pub(crate) fn run_job<R: Any + Send>(
        &self,
        target: DatasetId,
        partitions: &[usize],
        reduce: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        if task::is_inside() {
            return Err(EngineError::NestedAction);
        }
        let lineage = self.lineage(target);
        for node in lineage.nodes() {
            node.prepare()?;
        }
        let reduce: job::Reduce = Arc::new(move |context, partition, stream| {
            let value = reduce(context, partition, stream)?;
            Ok(Box::new(value) as Box<dyn Any + Send>)
        });
        let _turn = self.begin_action()?;
        let mut outcome = run::run(
            &self.inner.workers,
            &self.inner.resources,
            &lineage,
            partitions,
            &reduce,
        )?;
        self.inner.accumulators.merge(outcome.updates);
        let results = partitions
            .iter()
            .filter_map(|partition| outcome.results.remove(partition));
        Ok(results
            .filter_map(|value| value.downcast::<R>().ok())
            .map(|value| *value)
            .collect())
    }
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
        let removed = lock(&self.context.inner.graph).release(self.node.id);
        for node in &removed {
            if node.level().is_some() {
                self.context.drop_blocks(node.id);
                self.context.metrics().forget(node.id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
