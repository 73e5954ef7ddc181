//! The typed face of lineage: `Dataset<T>` and the transformations that need no shuffle.

mod flatten;
mod narrow;

mod several;

mod position;

mod random;

mod pipe;

mod on_device;

mod memoize;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use distdl_storage::{Level, PARTITIONS_MAX, Record};

pub use self::on_device::DeviceMap;
pub(crate) use self::random::{Purpose, generator};
use crate::batch::{AnyBatch, AnyStream, Batch, RecordType, TaskResult};
use crate::context::{Context, Handle};
use crate::error::{EngineError, Result, in_driver};
use crate::id::DatasetId;
use crate::lineage::{BatchStep, Compute, Dependency, Determinacy, Node, NodeSpec, PartitionMap};
use crate::memo::digest;
use crate::task::TaskContext;

/// A lazy, partitioned collection with lineage. Cheap to clone; does nothing until an action asks for records.
///
/// Order is part of the value: partitions are ordered, and so are the records in each of them.
///
/// **Determinacy.** Every operator is determinate if its closures are: a partition that is computed again, by whichever
/// process, has the same records in the same order. Shuffles put what arrives in any order into the order of the
/// partitions that sent it; what draws at random (`sample`, `sample_by_key`, `random_split`) draws by seed, partition
/// and position; `pipe` is as determinate as its program. Closures must not look at clocks, threads or the iteration
/// order of hash tables; one that does is declared by [`with_determinacy`](Dataset::with_determinacy).
#[must_use = "a dataset computes nothing until an action such as `collect` or `count`"]
pub struct Dataset<T> {
    pub(crate) handle: Arc<Handle>,
    records: PhantomData<fn() -> T>,
}

impl<T> Clone for Dataset<T> {
    fn clone(&self) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
            records: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Dataset<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Dataset({:?}, {} partitions)",
            self.handle.node, self.handle.node.partitions
        )
    }
}

impl NodeSpec {
    /// Parameters that are plain values, the same in all processes of a cluster.
    pub(crate) fn with_agreed_parameters(mut self, parameters: String) -> Self {
        self.agreed = Some(digest(&parameters)).filter(|_| !parameters.is_empty());
        self.parameters = parameters;
        self
    }

    /// Of two datasets that should be one context's: an action on another one fails, since their numbers mean nothing
    /// to each other.
    pub(crate) fn of_one_context(self, own: &Context, other: &Context) -> Self {
        let (operator, site) = (self.operator, self.site);
        match own.is(other) {
            true => self,
            false => self.refuse(of_two_contexts(operator, site)),
        }
    }

    /// A dataset that there cannot be: the first action on it, or on what is derived from it, fails with `error`.
    fn refuse(self, error: EngineError) -> Self {
        Self {
            partitions: 1,
            dependencies: Vec::new(),
            partitioning: None,
            prepare: Some(Arc::new(move || Err(error.clone()))),
            ..self
        }
    }

    /// The dataset of a context.
    pub(crate) fn build<T: Record>(self, context: &Context) -> Dataset<T> {
        let spec = match check_partitions(self.operator, self.site, self.partitions) {
            Ok(()) => self,
            Err(error) => self.refuse(error),
        };
        let handle = context.insert(spec, RecordType::of::<T>());
        Dataset {
            handle: Arc::new(handle),
            records: PhantomData,
        }
    }
}

/// An error if there cannot be so many partitions.
pub(crate) fn check_partitions(operator: &str, site: impl std::fmt::Display, partitions: usize) -> Result<()> {
    let (number, remedy) = match partitions {
        0 => ("no partition".to_owned(), "make one at least"),
        1..=PARTITIONS_MAX => return Ok(()),
        _ => (
            format!("more than {PARTITIONS_MAX} partitions, of each of which every process knows"),
            "make fewer and larger ones",
        ),
    };
    Err(EngineError::invalid(
        format!("`{operator}` at {site} is to have {number}"),
        remedy,
    ))
}

/// The error of an operator on datasets of two contexts.
pub(crate) fn of_two_contexts(operator: &str, site: impl std::fmt::Display) -> EngineError {
    EngineError::invalid(
        format!("`{operator}` at {site} is of datasets of two contexts"),
        "make both from the same context, or bring one over with `collect` and `parallelize`",
    )
}

/// A computation over whole streams, erased.
pub(crate) fn streams(
    function: impl Fn(&TaskContext, usize, Vec<AnyStream>) -> TaskResult<AnyStream> + Send + Sync + 'static,
) -> Compute {
    Compute::Streams(Arc::new(function))
}

/// The only stream of an operator with one parent partition.
pub(crate) fn only(streams: Vec<AnyStream>) -> AnyStream {
    Box::new(streams.into_iter().flatten())
}

/// The streams of an operator with one partition of each of two parents.
pub(crate) fn both(mut inputs: Vec<AnyStream>) -> (AnyStream, AnyStream) {
    let (right, left) = (inputs.pop(), inputs.pop());
    let open = |stream: Option<AnyStream>| stream.unwrap_or_else(|| Box::new(std::iter::empty()));
    (open(left), open(right))
}

impl<T: Record> Dataset<T> {
    /// The engine that this dataset belongs to.
    pub fn context(&self) -> &Context {
        &self.handle.context
    }

    /// Its name in lineage.
    pub fn id(&self) -> DatasetId {
        self.handle.node.id
    }

    /// Number of partitions; it never follows from the number of workers.
    pub fn partitions(&self) -> usize {
        self.handle.node.partitions
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.handle.node
    }

    pub(crate) fn narrow_dependency(&self) -> Vec<Dependency> {
        vec![Dependency::Narrow {
            parent: self.id(),
            partitions: PartitionMap::Same,
        }]
    }

    /// A dataset with the same partitions, made batch by batch.
    #[track_caller]
    pub(crate) fn batchwise<U: Record, S>(
        &self,
        operator: &'static str,
        keeps_partitioning: bool,
        open: impl Fn(&TaskContext, usize) -> S + Send + Sync + 'static,
    ) -> Dataset<U>
    where
        S: FnMut(Batch<T>) -> TaskResult<Vec<U>> + 'static,
    {
        self.batchwise_with(operator, String::new(), keeps_partitioning, open)
    }

    /// The same, with what is known of the operator's parameters.
    #[track_caller]
    pub(crate) fn batchwise_with<U: Record, S>(
        &self,
        operator: &'static str,
        parameters: String,
        keeps_partitioning: bool,
        open: impl Fn(&TaskContext, usize) -> S + Send + Sync + 'static,
    ) -> Dataset<U>
    where
        S: FnMut(Batch<T>) -> TaskResult<Vec<U>> + 'static,
    {
        let compute = Compute::Batchwise(Arc::new(move |context: &TaskContext, partition| {
            let mut step = open(context, partition);
            Box::new(move |batch: AnyBatch| Ok(AnyBatch::owned(step(batch.typed::<T>())?))) as BatchStep
        }));
        let mut spec = NodeSpec::new(operator, self.partitions(), self.narrow_dependency(), compute);
        spec.partitioning = self.node().partitioning.clone().filter(|_| keeps_partitioning);
        spec.with_agreed_parameters(parameters).build(self.context())
    }

    /// Gives the dataset a name, which `explain` and errors show beside its operator; returns the dataset itself.
    pub fn set_name(&self, name: &str) -> Dataset<T> {
        self.node().set_name(name);
        self.clone()
    }

    /// Says what the closures of this dataset's operator are, if they are not determinate; returns the dataset itself.
    ///
    /// Before an action computes something that is derived from a dataset which is not determinate, all of it is
    /// computed once and kept as [`local_checkpoint`](Self::local_checkpoint) keeps it, so that everything sees the
    /// same records: with several processes in two copies (`Level::Disk2`), and an error if both are lost. An action on
    /// the dataset itself computes it without that, unless it reads it more than once: `histogram`,
    /// `take_sample_with_replacement`, and iterations of several processes. The order of records is part of a dataset,
    /// so what is [`Unordered`](Determinacy::Unordered) is treated alike; `explain` tells them apart.
    ///
    /// ```
    /// use distdl_engine::{Config, Context, Determinacy};
    ///
    /// # fn main() -> distdl_engine::Result<()> {
    /// let context = Context::new(Config::default())?;
    /// let drawn = context.range(0..10, 2).map(|_| std::time::SystemTime::now());
    /// let drawn = drawn.with_determinacy(Determinacy::Indeterminate);
    /// assert!(drawn.explain().contains("not the same twice"));
    /// assert_eq!(drawn.determinacy(), Determinacy::Indeterminate);
    /// let times = drawn.map(|time| time);
    /// assert_eq!(times.collect()?, times.collect()?, "the clock was looked at once");
    /// assert_eq!(drawn.determinacy(), Determinacy::Determinate, "the records are kept");
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_determinacy(&self, determinacy: Determinacy) -> Dataset<T> {
        self.node().set_determinacy(determinacy);
        self.clone()
    }

    /// Whether each computation of this dataset gives the same records in the same order: what the program has said by
    /// [`with_determinacy`](Self::with_determinacy), until its records are kept once for all.
    pub fn determinacy(&self) -> Determinacy {
        self.node().determinacy()
    }

    /// Keeps the blocks of this dataset at `level` once they are computed; returns the dataset itself.
    ///
    /// A block that is evicted, deleted or damaged later is computed again from lineage. What has no lineage any more
    /// ([`local_checkpoint`](Self::local_checkpoint)) stays as it is kept.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// use distdl_storage::Level;
    ///
    /// let squares = context.range(0..8, 4).map(|number| number * number);
    /// let same = squares.persist(Level::Disk);
    /// assert_eq!(squares.level(), Some(Level::Disk), "it is a property of the dataset, not of a copy");
    /// assert_eq!(same.id(), squares.id());
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    pub fn persist(&self, level: Level) -> Dataset<T> {
        if !self.node().is_cut() {
            self.node().set_level(Some(level));
        }
        self.clone()
    }

    /// [`persist`](Self::persist) at memory level.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let squares = context.range(0..8, 4).map(|number| number * number).cache();
    /// assert_eq!(squares.partitions_computed(), 0, "this is lazy, too");
    /// assert_eq!(squares.take(1)?, [0]);
    /// assert_eq!(squares.partitions_computed(), 1, "what an action needs is kept");
    /// assert_eq!((squares.count()?, squares.count()?), (8, 8));
    /// assert_eq!(squares.partitions_computed(), 4, "each partition is computed once");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    pub fn cache(&self) -> Dataset<T> {
        self.persist(Level::Memory)
    }

    /// Drops the blocks of this dataset and keeps none from now on, unless it has no lineage any more
    /// ([`local_checkpoint`](Self::local_checkpoint)): such blocks go with the last handle on it. An action that reads
    /// them at that time computes them again. Returns the dataset itself.
    ///
    /// An action looks at all of the lineage behind it, also behind blocks: a program of hundreds of rounds, each
    /// derived from the one before, sets `cut_lineage_every`.
    pub fn unpersist(&self) -> &Dataset<T> {
        self.context().unpersist(self.node());
        self
    }

    /// The level at which blocks are kept, if they are.
    pub fn level(&self) -> Option<Level> {
        self.node().level()
    }

    /// How often a partition of this dataset was computed and kept since the context began: first times, and again
    /// after a loss. Only counted while it is persisted.
    pub fn partitions_computed(&self) -> u64 {
        self.context().metrics().partitions_computed(self.id())
    }

    pub(crate) fn run<R: Record>(
        &self,
        partitions: &[usize],
        reduce: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        self.context().run_job(self.id(), partitions, reduce)
    }

    pub(crate) fn run_all<R: Record>(
        &self,
        reduce: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        let all: Vec<usize> = (0..self.partitions()).collect();
        self.run(&all, reduce)
    }

    /// What `work` gives, in which an action calls a closure in the driver program: a panic of it is an error.
    pub(crate) fn in_driver<R>(&self, action: &str, work: impl FnOnce() -> R) -> Result<R> {
        let node = self.node();
        in_driver(&format!("{action} of {}", node.title()), &node.site, work)
    }
}
