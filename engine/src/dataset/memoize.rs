//! Results that are remembered from run to run.

use distdl_storage::{Level, Record};

use crate::dataset::Dataset;
use crate::error::{EngineError, Result};
use crate::lineage::{Compute, Memoized, NodeSpec};
use crate::memo;

impl<T: Record> Dataset<T> {
    /// The same dataset, whose computed partitions are remembered in the cache folder (`--cache`), for other runs and
    /// other programs. A partition that is remembered is not computed, nor is what only it is derived from: no operator
    /// before it runs, also before a shuffle.
    ///
    /// A partition is the remembered one if the name, the version, the record type and its inputs are the same: of the
    /// partitions that it depends on, what their sources hold (objects by URL, version and length as listed, local
    /// files with the time of their last change, records by their bytes), which operators are between, their order, and
    /// the numbers that the engine knows of them, such as counts of partitions and seeds. The place of a partition
    /// counts too. So when one of many input files changes and keeps its length, what depends on that one is computed;
    /// behind a shuffle, everything. Where a file grows, comes or goes, a source that cuts all files together, such as
    /// [`text_file`](crate::Context::text_file), cuts them elsewhere, and everything is computed. Then memoize file by
    /// file, as below, or take [live objects](crate::incremental::LiveObjects).
    ///
    /// The record type counts by its name, its size, and what its `Deserialize` asks for: names and order of fields and
    /// variants, kinds of numbers, and the same of all types in it. It is tried with 1, with texts that are a number, a
    /// date, a time, an address or a URL, and with nothing or one of what there may be several. Where it refuses all of
    /// these, names and kinds of what comes after that do not count: such fields belong at the end of a record.
    ///
    /// Of an outside program counts what [`pipe`](Self::pipe) says.
    ///
    /// **What closures do, and what values they capture, cannot be seen**, nor what a field means whose name and kind
    /// stay. The name and the version stand for them: give another `version` whenever a closure before this point,
    /// something that it captures, or the meaning of the record type has changed, and a name of its own to each
    /// memoized dataset. Old results of the same version would be taken for new ones otherwise. Floats that operators
    /// sum may differ between types of machine; do not share a cache folder between them.
    ///
    /// Where a partition is not computed, closures before this point do not run: accumulators do not grow.
    ///
    /// Blocks are kept in memory beside that, as at [`Level::MemoryAndDisk`]; [`persist`](Self::persist) changes that,
    /// and [`unpersist`](Self::unpersist) ends it: then nothing is looked for or remembered. What is damaged, gone or
    /// cannot be kept in the folder costs its computation, and never a wrong record.
    ///
    /// ```
    /// use distdl_engine::{Config, Context};
    ///
    /// # fn main() -> distdl_engine::Result<()> {
    /// # let cache = tempfile::tempdir().expect("a folder");
    /// # let cache = cache.path();
    /// for (run, computed) in [(1, 4), (2, 0)] {
    ///     let context = Context::new(Config::default().with_cache_folder(cache))?;
    ///     let squares = context.range(0..1000, 4).map(|number| number * number).memoize("squares", 1)?;
    ///     assert_eq!(squares.reduce(|left, right| left + right)?, Some(332_833_500), "run {run}");
    ///     assert_eq!(squares.partitions_computed(), computed);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Of files that grow or are added, only those are computed:
    ///
    /// ```
    /// use distdl_engine::{Config, Context, Dataset, Result};
    ///
    /// # fn main() -> distdl_engine::Result<()> {
    /// # let (folder, cache) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    /// # let path = |name: &str| folder.path().join(name).display().to_string();
    /// # std::fs::write(path("a"), "one\n").expect("a file");
    /// let context = Context::new(Config::default().with_cache_folder(cache.path()))?;
    /// let lengths = |path: &String| context.text_file(path, 1)?.map(|line| line.len() as u64).memoize("lengths", 1);
    /// # context.union(&[lengths(&path("a"))?]).count()?;
    /// # std::fs::write(path("b"), "two\nthree\n").expect("a file");
    /// let files: Vec<Dataset<u64>> = [path("a"), path("b")].iter().map(lengths).collect::<Result<_>>()?;
    /// assert_eq!(context.union(&files).collect()?, [3, 3, 5]);
    /// // `b` has come since the last time.
    /// assert_eq!(files.iter().map(Dataset::partitions_computed).collect::<Vec<_>>(), [0, 1]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// There is no cache folder, or it cannot be used; or a source that this dataset is derived from does not tell what
    /// it holds (a server that names no version of an object).
    #[track_caller]
    pub fn memoize(&self, name: &str, version: u64) -> Result<Dataset<T>> {
        let context = self.context();
        let Some(memo) = context.store().memo() else {
            return Err(EngineError::invalid(
                format!("`memoize(\"{name}\", {version})` without a cache folder"),
                "name one with `--cache`, `DISTDL_CACHE` or `Config::with_cache_folder`, or use `persist`, which \
                 remembers for this run",
            ));
        };
        if let Some(source) = memo::unknown_source(&context.lineage(self.id())) {
            return Err(EngineError::invalid(
                format!(
                    "`memoize(\"{name}\", {version})` cannot tell whether the input has changed: `{}` (declared at {}) \
                     names no version of what it holds",
                    source.title(),
                    source.site
                ),
                "copy the objects to a store that names versions (an entity tag or a time of change) or to local \
                 files, or use `persist`",
            ));
        }
        memo.open()?;
        let mut spec = NodeSpec::new("memoize", self.partitions(), self.narrow_dependency(), Compute::Pass);
        spec.partitioning = self.node().partitioning.clone();
        spec.memo = Some(Memoized {
            name: name.to_owned(),
            version,
        });
        Ok(spec.build(context).persist(Level::MemoryAndDisk))
    }
}
