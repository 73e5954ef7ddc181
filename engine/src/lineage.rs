//! How data is derived: the graph of datasets, with types erased.
//!
//! A dataset is five facts, after Spark: its partitions, how to compute one, its dependencies, an optional
//! partitioning of its keys, and where it is best computed. The graph is interned by id and only ever walked with
//! explicit worklists, so that ten thousand chained operators neither overflow a stack when run nor when dropped.

mod ancestors;
mod dependency;

use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use std::ops::Range;

use distdl_storage::object::Object;
use distdl_storage::{Digest, Level, Unpoisoned};
use foldhash::fast::RandomState;

pub(crate) use self::ancestors::Lineage;
pub(crate) use self::dependency::{Dependency, PartitionMap, Wanted};
use crate::batch::{AnyBatch, AnyStream, RecordType, TaskResult};
use crate::error::Result;
use crate::id::DatasetId;
use crate::partitioner::Partitioning;
use crate::task::TaskContext;

/// The writing side of a shuffle: cuts a parent partition's records by key, combining them first where it can.
pub(crate) trait ShuffleSpec: Send + Sync {
    /// Number of buckets, which is the child's number of partitions.
    fn buckets(&self) -> usize;
    /// Type of the records that travel.
    fn record_type(&self) -> RecordType;
    /// A writer for one partition of the parent, whose task is given.
    fn writer(&self, context: &TaskContext, partition: usize) -> Box<dyn BucketWriter>;
    /// Whether records of one key are combined before they travel.
    fn combines(&self) -> bool;
}

/// Where a [`BucketWriter`] leaves its batches: (bucket, batch, about how much memory it takes in bytes).
pub(crate) type Emit<'a> = &'a mut dyn FnMut(usize, AnyBatch, u64);

/// Cuts one partition's stream into buckets. The records of a bucket, and their order, depend only on what it is given,
/// in order; into how many batches they are cut may depend on memory.
pub(crate) trait BucketWriter {
    /// Takes a batch; may emit full buckets.
    ///
    /// # Errors
    /// What memory has no room for cannot be put on disk.
    fn write(&mut self, batch: AnyBatch, emit: Emit<'_>) -> TaskResult<()>;
    /// Emits what is left.
    ///
    /// # Errors
    /// As [`BucketWriter::write`].
    fn finish(&mut self, emit: Emit<'_>) -> TaskResult<()>;
}

/// A step over single batches.
pub(crate) type BatchStep = Box<dyn FnMut(AnyBatch) -> TaskResult<AnyBatch>>;

/// Opens the step of one partition.
pub(crate) type OpenStep = Arc<dyn Fn(&TaskContext, usize) -> BatchStep + Send + Sync>;

/// Computes one partition from its input streams.
pub(crate) type ComputeStreams =
    Arc<dyn Fn(&TaskContext, usize, Vec<AnyStream>) -> TaskResult<AnyStream> + Send + Sync>;

/// How one partition is computed from the streams it depends on.
#[derive(Clone)]
pub(crate) enum Compute {
    /// Hands batches on untouched (union, coalesce).
    Pass,
    /// One batch in, one batch out; fused with its neighbours.
    Batchwise(OpenStep),
    /// Anything else: one input stream for every parent partition or shuffle that the partition reads, in order.
    Streams(ComputeStreams),
}

/// A digest of all that a partition of a source holds: the same for the same records in any process and run, another
/// one if they may differ. Asked only when something derived from the source is memoized.
pub(crate) type Contents = Arc<dyn Fn(usize) -> Digest + Send + Sync>;

/// The parts of objects that a partition of a source reads, in bytes.
pub(crate) type Reads = Arc<dyn Fn(usize) -> Vec<(Object, Range<u64>)> + Send + Sync>;

/// Work that must be done once before a dataset can be planned (sampling the bounds of a sort).
pub(crate) type Prepare = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// What is the same when a partition is computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Determinacy {
    /// The records and their order.
    #[default]
    Determinate,
    /// The records, but perhaps not their order.
    Unordered,
    /// Perhaps nothing.
    Indeterminate,
}

/// Everything a new dataset is made of, but for the type of its records.
pub(crate) struct NodeSpec {
    /// Operator name as the user wrote it.
    pub operator: &'static str,
    /// Where in the driver program.
    pub site: &'static Location<'static>,
    /// Number of partitions.
    pub partitions: usize,
    /// Parents; of a node in the graph ask [`Node::dependencies`].
    pub dependencies: Vec<Dependency>,
    /// How to compute a partition.
    pub compute: Compute,
    /// Where keys lie, if known.
    pub partitioning: Option<Partitioning>,
    /// Work before planning.
    pub prepare: Option<Prepare>,
    /// A remark for `explain`, for example a source's files.
    pub remark: String,
    /// What the partitions of a source read, so that they can be computed where that is.
    pub reads: Option<Reads>,
    /// What the partitions of a source hold, if that can be told without reading them.
    pub contents: Option<Contents>,
    /// A digest that must be the same in all processes of a cluster: they compare it at each action.
    pub agreed: Option<Digest>,
    /// What is known of the operator's parameters, for the keys of computations; empty if it has none, or they are the
    /// program's own.
    pub parameters: String,
    /// The name under which its blocks are remembered from run to run, if they are.
    pub memo: Option<Memoized>,
}

impl NodeSpec {
    /// Of an operator at the place of the caller, with what most operators leave out.
    #[track_caller]
    pub(crate) fn new(
        operator: &'static str,
        partitions: usize,
        dependencies: Vec<Dependency>,
        compute: Compute,
    ) -> Self {
        Self {
            operator,
            site: Location::caller(),
            partitions,
            dependencies,
            compute,
            partitioning: None,
            prepare: None,
            remark: String::new(),
            reads: None,
            contents: None,
            agreed: None,
            parameters: String::new(),
            memo: None,
        }
    }
}

/// What the program calls a computation whose results are remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Memoized {
    /// The name.
    pub name: String,
    /// The version: another one for another computation.
    pub version: u64,
}

/// A dataset in the graph.
pub(crate) struct Node {
    /// Its id; larger than its parents'.
    pub id: DatasetId,
    /// Type of its records.
    pub record_type: RecordType,
    spec: NodeSpec,
    level: AtomicU8,
    name: Mutex<Option<Arc<str>>>,
    prepared: OnceLock<()>,
    /// What the program says of its closures, by number in [`DETERMINACIES`].
    determinacy: AtomicU8,
    /// Whether it is derived from nothing any more: its blocks are all there is of it.
    cut: AtomicBool,
    /// Whether it was said that a block of it found no room.
    told_of_room: AtomicBool,
    /// The keys of its partitions' computations, if it is memoized and they were asked for, or what was known of its
    /// partitions when its lineage was cut.
    pub(crate) keys: OnceLock<Vec<Digest>>,
}

impl std::ops::Deref for Node {
    type Target = NodeSpec;
    fn deref(&self) -> &NodeSpec {
        &self.spec
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} at {}", self.id, self.operator, self.site)
    }
}

const LEVELS: [Option<Level>; 7] = [
    None,
    Some(Level::Memory),
    Some(Level::Disk),
    Some(Level::MemoryAndDisk),
    Some(Level::Memory2),
    Some(Level::Disk2),
    Some(Level::MemoryAndDisk2),
];

const DETERMINACIES: [Determinacy; 3] = [
    Determinacy::Determinate,
    Determinacy::Unordered,
    Determinacy::Indeterminate,
];

impl Node {
    /// What the program says of the operator; what was kept once for all is determinate.
    pub(crate) fn determinacy(&self) -> Determinacy {
        let said = usize::from(self.determinacy.load(Ordering::SeqCst));
        let determinacy = DETERMINACIES.get(said).copied().unwrap_or_default();
        if self.is_cut() {
            Determinacy::Determinate
        } else {
            determinacy
        }
    }

    /// Says what the operator is.
    pub(crate) fn set_determinacy(&self, determinacy: Determinacy) {
        let index = DETERMINACIES
            .iter()
            .position(|known| *known == determinacy)
            .unwrap_or(0);
        self.determinacy.store(index as u8, Ordering::SeqCst);
    }

    /// The level at which blocks of this dataset are kept, if they are.
    pub(crate) fn level(&self) -> Option<Level> {
        LEVELS[usize::from(self.level.load(Ordering::SeqCst)) % LEVELS.len()]
    }

    /// Sets the level.
    pub(crate) fn set_level(&self, level: Option<Level>) {
        let index = LEVELS.iter().position(|known| *known == level).unwrap_or(0);
        self.level.store(index as u8, Ordering::SeqCst);
    }

    /// What it is derived from: nothing if it is cut.
    pub(crate) fn dependencies(&self) -> &[Dependency] {
        if self.is_cut() { &[] } else { &self.spec.dependencies }
    }

    /// The dependencies that a partition may read from, each with its number: of a union's arms the one that has it.
    pub(crate) fn dependencies_of(&self, partition: usize) -> impl Iterator<Item = (usize, &Dependency)> {
        let all = self.dependencies();
        let read = dependency::read_by(all, partition);
        read.clone().zip(&all[read])
    }

    /// Whether its lineage was dropped, so that a block which is lost cannot be computed again.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    /// Gives it a name for people.
    pub(crate) fn set_name(&self, name: &str) {
        *self.name.lock().unpoisoned() = Some(name.into());
    }

    /// The operator, and the name if it has one.
    pub(crate) fn title(&self) -> String {
        match &*self.name.lock().unpoisoned() {
            Some(name) => format!("{} \"{name}\"", self.operator),
            None => self.operator.to_owned(),
        }
    }

    /// Whether the work before it is planned, if there is any, is done.
    pub(crate) fn is_prepared(&self) -> bool {
        self.spec.prepare.is_none() || self.prepared.get().is_some() || self.is_cut()
    }

    /// Whether this is the first block of it that finds no room: people are told once.
    pub(crate) fn is_first_without_room(&self) -> bool {
        !self.told_of_room.swap(true, Ordering::SeqCst)
    }

    /// Whether its blocks may be there before the program has computed any.
    pub(crate) fn is_remembered(&self) -> bool {
        self.memo.is_some() && self.level().is_some()
    }

    /// Runs the work before planning, once.
    pub(crate) fn prepare(&self) -> Result<()> {
        if let (Some(prepare), false) = (&self.spec.prepare, self.is_prepared()) {
            prepare()?;
            let _ = self.prepared.set(());
        }
        Ok(())
    }
}

struct Entry {
    node: Arc<Node>,
    references: usize,
}

/// All live datasets of a context. A dataset lives while a handle or a child refers to it.
#[derive(Default)]
pub(crate) struct Graph {
    entries: HashMap<DatasetId, Entry, RandomState>,
    next: u64,
}

impl Graph {
    /// Adds a dataset with one reference to it, and a reference to each of its parents.
    pub(crate) fn insert(&mut self, spec: NodeSpec, record_type: RecordType) -> Arc<Node> {
        let id = DatasetId(self.next);
        self.next += 1;
        for dependency in &spec.dependencies {
            self.retain(dependency.parent());
        }
        let node = Arc::new(Node {
            id,
            record_type,
            spec,
            level: AtomicU8::new(0),
            name: Mutex::default(),
            prepared: OnceLock::new(),
            determinacy: AtomicU8::new(0),
            cut: AtomicBool::new(false),
            told_of_room: AtomicBool::new(false),
            keys: OnceLock::new(),
        });
        self.entries.insert(
            id,
            Entry {
                node: Arc::clone(&node),
                references: 1,
            },
        );
        node
    }

    /// A dataset that is alive.
    pub(crate) fn node(&self, id: DatasetId) -> Option<&Arc<Node>> {
        self.entries.get(&id).map(|entry| &entry.node)
    }

    /// One more reference.
    pub(crate) fn retain(&mut self, id: DatasetId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.references += 1;
        }
    }

    /// One reference fewer. Returns the datasets that nobody refers to any more, for the caller to drop outside its
    /// lock: a node's closures may own handles on other datasets.
    #[must_use]
    pub(crate) fn release(&mut self, id: DatasetId) -> Vec<Arc<Node>> {
        let mut worklist = vec![id];
        let mut removed = Vec::new();
        while let Some(id) = worklist.pop() {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            entry.references -= 1;
            if entry.references == 0
                && let Some(entry) = self.entries.remove(&id)
            {
                worklist.extend(entry.node.dependencies().iter().map(Dependency::parent));
                removed.push(entry.node);
            }
        }
        removed
    }

    /// Drops what a dataset is derived from. Returns the datasets that nobody refers to any more, as
    /// [`Graph::release`] does.
    #[must_use]
    pub(crate) fn cut(&mut self, id: DatasetId) -> Vec<Arc<Node>> {
        let Some(node) = self.node(id).map(Arc::clone).filter(|node| !node.is_cut()) else {
            return Vec::new();
        };
        let parents: Vec<DatasetId> = node.dependencies().iter().map(Dependency::parent).collect();
        node.cut.store(true, Ordering::SeqCst);
        parents.into_iter().flat_map(|parent| self.release(parent)).collect()
    }

    /// Number of live datasets.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A dataset and all that it is derived from.
    pub(crate) fn lineage(&self, target: DatasetId) -> Lineage {
        // Parents have smaller ids: once the largest is taken, all that are derived from it were, and it does not come
        // again.
        let (mut nodes, mut waiting) = (Vec::new(), BinaryHeap::from([target]));
        while let Some(id) = take_largest(&mut waiting) {
            let Some(entry) = self.entries.get(&id) else { continue };
            waiting.extend(entry.node.dependencies().iter().map(Dependency::parent));
            nodes.push(Arc::clone(&entry.node));
        }
        nodes.reverse();
        Lineage::new(target, nodes)
    }
}

/// The largest of what waits, however often it is there.
fn take_largest(waiting: &mut BinaryHeap<DatasetId>) -> Option<DatasetId> {
    let id = waiting.pop()?;
    while waiting.peek() == Some(&id) {
        waiting.pop();
    }
    Some(id)
}
