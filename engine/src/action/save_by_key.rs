//! Files in a folder for each key.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use distdl_storage::Record;
use distdl_storage::csv::CsvOptions;
use distdl_storage::remote::{check_column, key_folder};

#[cfg(feature = "parquet")]
use super::encoders::parquet_file;
use super::encoders::{Encoder, SaveOptions, csv_file, json_lines, text_lines};
use crate::batch::PartitionIter;
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};

/// Most keys of one partition, each of which has a file in the making. A compressor holds some 300 KB.
const KEYS_PER_PARTITION_MAX: usize = 1000;

impl<K: Record + Display, V: Record + Display> Dataset<(K, V)> {
    /// Writes the values as [`save_as_text_file_with`](Dataset::save_as_text_file_with) does, those of each key into a
    /// folder `column=key`: `url/day=2024-01-01/part-00000` and so on, a file for each partition that has values of the
    /// key, in their order. Hive, Spark, Polars, DuckDB and others read the folders' names as a column; here
    /// [`key_of_name`](distdl_storage::remote::key_of_name) does. All of it appears at once or not at all, and replaces
    /// what is there, as there.
    ///
    /// The text of a key names its folder, with letters escaped as
    /// [`key_folder`](distdl_storage::remote::key_folder) says. Keys of the same text share a folder, others never do;
    /// a file system that takes upper and lower case for the same is an error where that matters.
    ///
    /// No shuffle of its own; all text of a partition is held in memory while it is written, in one file for each of
    /// its keys, of which there may be 1000. [`partition_by`](Dataset::partition_by) before brings the values of each
    /// key into one file, and the more partitions it makes, the fewer keys each has.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context, SaveOptions};
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let url = folder.path().join("numbers");
    /// # let url = url.to_str().expect("UTF-8");
    /// use distdl_storage::remote::key_of_name;
    ///
    /// let pairs = context.range(0..5, 2).map(|number| (number % 2, number));
    /// pairs.save_as_text_file_by_key(url, "rest", SaveOptions::default())?; // rest=0/part-00000 and so on
    /// assert_eq!(context.text_file(&format!("{url}/rest=1"), 1)?.collect()?, ["1", "3"]);
    /// let read = context.text_file_with_names(&format!("{url}/*/part-*"), 2)?;
    /// let read = read.map(|(name, number)| (key_of_name(&name, "rest").unwrap_or_default(), number));
    /// assert_eq!(read.first()?, ("0".to_owned(), "0".to_owned()));
    /// assert_eq!(read.count()?, 5);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If `column` is empty, begins with `.` or `_` or has letters that are escaped; if a key's folder has a name of
    /// more than 255 bytes; if a partition has more than 1000 keys; otherwise as `save_as_text_file_with`.
    pub fn save_as_text_file_by_key(&self, url: &str, column: &str, options: SaveOptions) -> Result<()> {
        self.save_by_key(url, column, options, &options.ending(""), text_lines(url, options))
    }
}

impl<K: Record + Display, V: Record> Dataset<(K, V)> {
    /// As [`save_as_text_file_by_key`](Dataset::save_as_text_file_by_key), with files as
    /// [`save_as_json_lines_file_with`](Dataset::save_as_json_lines_file_with) writes them.
    ///
    /// # Errors
    /// As these two.
    pub fn save_as_json_lines_file_by_key(&self, url: &str, column: &str, options: SaveOptions) -> Result<()> {
        self.save_by_key(
            url,
            column,
            options,
            &options.ending(".jsonl"),
            json_lines(url, options),
        )
    }

    /// As [`save_as_text_file_by_key`](Dataset::save_as_text_file_by_key), with files as
    /// [`save_as_csv_file_with`](Dataset::save_as_csv_file_with) writes them.
    ///
    /// # Errors
    /// As these two.
    pub fn save_as_csv_file_by_key(
        &self,
        url: &str,
        column: &str,
        options: &CsvOptions,
        saving: SaveOptions,
    ) -> Result<()> {
        let options = self.context().csv_options(options.clone());
        self.save_by_key(
            url,
            column,
            saving,
            &saving.ending(".csv"),
            csv_file(url, options, saving),
        )
    }

    /// As [`save_as_text_file_by_key`](Dataset::save_as_text_file_by_key), with files as
    /// [`save_as_parquet_file_with`](Dataset::save_as_parquet_file_with) writes them.
    ///
    /// # Errors
    /// As these two.
    #[cfg(feature = "parquet")]
    pub fn save_as_parquet_file_by_key(&self, url: &str, column: &str, options: SaveOptions) -> Result<()> {
        self.save_by_key(url, column, options, ".parquet", parquet_file(url, options)?)
    }

    fn save_by_key<E: Encoder<V>>(
        &self,
        url: &str,
        column: &str,
        options: SaveOptions,
        ending: &str,
        begin: impl Fn() -> Result<E> + Send + Sync + 'static,
    ) -> Result<()> {
        check_column(column)?;
        let column = column.to_owned();
        self.publish(url, options.existing, ending, move |records| {
            files_by_key(records, &column, &begin)
        })
    }
}

/// A file for each key, beside the name of its folder.
fn files_by_key<K: Record + Display, V: Record, E: Encoder<V>>(
    records: PartitionIter<(K, V)>,
    column: &str,
    begin: impl Fn() -> Result<E>,
) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files: BTreeMap<String, (String, E)> = BTreeMap::new();
    let mut text = String::new();
    for (key, value) in records {
        text.clear();
        write!(text, "{key}").map_err(|error| {
            let name = std::any::type_name::<K>();
            EngineError::invalid(
                format!("a key of {name} has no text form: its `Display` failed ({error})"),
                "map the keys to what can be displayed first",
            )
        })?;
        if let Some((_, file)) = files.get_mut(&text) {
            file.push(value)?;
            continue;
        }
        if files.len() == KEYS_PER_PARTITION_MAX {
            return Err(EngineError::invalid(
                format!("a partition that is saved by key has more than {KEYS_PER_PARTITION_MAX} keys"),
                "spread the pairs by key over more partitions with `partition_by`, or save by a key of fewer values",
            ));
        }
        let (folder, mut file) = (key_folder(column, &text)?, begin()?);
        file.push(value)?;
        files.insert(text.clone(), (folder, file));
    }
    let files = files.into_values();
    files.map(|(folder, file)| Ok((folder, file.finish()?))).collect()
}
