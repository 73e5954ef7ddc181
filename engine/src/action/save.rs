//! Files from one process or from many, which appear whole or not at all.

use std::fmt::{Display, Write};
use std::path::absolute;
use std::sync::Arc;

use bytes::Bytes;
use distdl_storage::Record;
use distdl_storage::array::{Element, NpyWriter};
use distdl_storage::csv::{CsvOptions, CsvWriter};
#[cfg(feature = "parquet")]
use distdl_storage::parquet::ParquetWriter;
use distdl_storage::remote::{Existing, SharedFolder};
use distdl_storage::text::TextFile;

use super::once::once;
use crate::batch::PartitionIter;
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};

/// How files are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SaveOptions {
    /// Whether files are compressed in gzip format. Their names end in `.gz` then, by which all that reads them knows;
    /// each is read by one partition. Without times and names in them, a program makes the same bytes of the same
    /// records each time. Default `false`. Not for npy and Parquet files.
    pub gzip: bool,
    /// What is done where something has the name already: it stays and saving is refused, or it is replaced at the very
    /// end, all at once. Default [`Existing::Refuse`].
    pub existing: Existing,
}

impl SaveOptions {
    /// How names of parts of a kind end.
    fn ending(self, kind: &str) -> String {
        format!("{kind}{}", if self.gzip { ".gz" } else { "" })
    }

    /// An error if what has a format without need or use for it is to be compressed.
    fn must_be_plain(self, format: &str) -> Result<()> {
        match self.gzip {
            true => Err(EngineError::invalid(
                format!("{format} files are not saved in gzip format"),
                "leave `SaveOptions::gzip` off",
            )),
            false => Ok(()),
        }
    }
}

impl<T: Record + Display> Dataset<T> {
    /// Writes each partition as a text file, `part-00000` and so on, a line a record (text that has line ends in it
    /// comes back as several; a `\r` at the end of a record is taken for part of the line's end, and a byte order mark
    /// at the start of a part is dropped; JSON lines bear them all), into a new folder or object prefix `url`. All of
    /// it appears at once, when every part is complete and synced, or not at all.
    ///
    /// Of several processes each writes the parts that it computes, and one publishes them: `url` must be a folder that
    /// all of them see, on a file system that knows hard links. Who dies half way leaves nothing behind once the action
    /// is over. No shuffle of its own; a partition's text is held in memory while it is written.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let url = folder.path().join("squares");
    /// # let url = url.to_str().expect("UTF-8");
    /// let squares = context.range(0..5, 2).map(|number| number * number);
    /// squares.save_as_text_file(url)?; // part-00000 and part-00001
    /// assert_eq!(context.text_file(&format!("{url}/part-*"), 2)?.collect()?, ["0", "1", "4", "9", "16"]);
    /// assert!(squares.save_as_text_file(url).is_err(), "what is there is not replaced unless that is asked for");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If `url` exists or cannot be written; otherwise as any action.
    pub fn save_as_text_file(&self, url: &str) -> Result<()> {
        self.save_as_text_file_with(url, SaveOptions::default())
    }

    /// The same, and `options` say how: compressed, or in place of what is there.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context, SaveOptions};
    /// # use distdl_storage::remote::Existing;
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let url = folder.path().join("squares");
    /// # let url = url.to_str().expect("UTF-8");
    /// let squares = context.range(0..5, 2).map(|number| number * number);
    /// squares.save_as_text_file(url)?;
    /// let options = SaveOptions { gzip: true, existing: Existing::Replace };
    /// squares.save_as_text_file_with(url, options)?; // part-00000.gz and part-00001.gz
    /// assert_eq!(context.text_file(url, 2)?.collect()?, ["0", "1", "4", "9", "16"]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As `save_as_text_file`; or what is there is to be replaced and cannot be, as [`Existing::Replace`] says.
    pub fn save_as_text_file_with(&self, url: &str, options: SaveOptions) -> Result<()> {
        let name = url.to_owned();
        self.save(url, options, &options.ending(""), move |records| {
            text_of(records, TextFile::new(&name, options.gzip))
        })
    }
}

impl<T: Record> Dataset<T> {
    /// Writes each partition as a file of JSON lines, `part-00000.jsonl` and so on, a value a line, in the way of
    /// [`save_as_text_file`](Dataset::save_as_text_file). JSON knows no NaN and no infinity: they become `null`.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let url = folder.path().join("squares");
    /// # let url = url.to_str().expect("UTF-8");
    /// let squares = context.range(0..5, 2).map(|number| (number, number * number));
    /// squares.save_as_json_lines_file(url)?;
    /// assert_eq!(context.text_file(&format!("{url}/*.jsonl"), 1)?.first()?, "[0,0]");
    /// assert_eq!(context.json_lines::<(u64, u64)>(&format!("{url}/*.jsonl"), 3)?.collect()?, squares.collect()?);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If a record has no JSON form; otherwise as `save_as_text_file`.
    pub fn save_as_json_lines_file(&self, url: &str) -> Result<()> {
        self.save_as_json_lines_file_with(url, SaveOptions::default())
    }

    /// The same as `options` say: `part-00000.jsonl.gz` and so on, or in place of what is there.
    ///
    /// # Errors
    /// As `save_as_json_lines_file` and `save_as_text_file_with`.
    pub fn save_as_json_lines_file_with(&self, url: &str, options: SaveOptions) -> Result<()> {
        let name = url.to_owned();
        self.save(url, options, &options.ending(".jsonl"), move |records| {
            json_of(records, TextFile::new(&name, options.gzip))
        })
    }

    /// Writes each partition as a CSV file, `part-00000.csv` and so on, in the way of
    /// [`save_as_text_file`](Dataset::save_as_text_file). Records are structs, whose fields' names are the header of
    /// each file that is not empty; or tuples and the like without names, for which `options` must have no header.
    /// Fields are quoted where they need it. [`Context::csv`](crate::Context::csv) reads them with the same options.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # use distdl_storage::csv::CsvOptions;
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let url = folder.path().join("people");
    /// # let url = url.to_str().expect("UTF-8");
    /// let options = CsvOptions { header: false, ..CsvOptions::default() };
    /// let people = context.parallelize([(36, "Lovelace, Ada".to_owned()), (41, "Alan".to_owned())], 1);
    /// people.save_as_csv_file(url, &options)?;
    /// assert_eq!(context.text_file(url, 1)?.first()?, "36,\"Lovelace, Ada\"");
    /// assert_eq!(context.csv::<(u32, String)>(url, options, 3)?.collect()?, people.collect()?);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If `options` have no quote, or trim what is read; if a record is no row of fields, has no names for a header
    /// that is asked for, has line ends in a field where `options` do not say so, or is longer than they say; otherwise
    /// as `save_as_text_file`.
    pub fn save_as_csv_file(&self, url: &str, options: &CsvOptions) -> Result<()> {
        self.save_as_csv_file_with(url, options, SaveOptions::default())
    }

    /// The same as `saving` says: `part-00000.csv.gz` and so on, or in place of what is there.
    ///
    /// # Errors
    /// As `save_as_csv_file` and `save_as_text_file_with`.
    pub fn save_as_csv_file_with(&self, url: &str, options: &CsvOptions, saving: SaveOptions) -> Result<()> {
        let (name, options) = (url.to_owned(), self.context().csv_options(options.clone()));
        self.save(url, saving, &saving.ending(".csv"), move |records| {
            let mut writer = CsvWriter::with_file(TextFile::new(&name, saving.gzip), &options)?;
            for record in records {
                writer.push(&record)?;
            }
            Ok(writer.finish()?)
        })
    }

    /// Writes each partition as a Parquet file, `part-00000.parquet` and so on, in the way of
    /// [`save_as_text_file`](Dataset::save_as_text_file). Records must be structs: their fields are the columns. Row
    /// groups have [`ROW_GROUP_ROWS`](distdl_storage::parquet::ROW_GROUP_ROWS) rows and are compressed with Snappy.
    ///
    /// # Errors
    /// If the type has no columns; otherwise as `save_as_text_file`.
    #[cfg(feature = "parquet")]
    pub fn save_as_parquet_file(&self, url: &str) -> Result<()> {
        self.save_as_parquet_file_with(url, SaveOptions::default())
    }

    /// The same as `options` say: in place of what is there.
    ///
    /// # Errors
    /// If `options` ask for gzip, which Parquet does without; otherwise as `save_as_parquet_file` and
    /// `save_as_text_file_with`.
    #[cfg(feature = "parquet")]
    pub fn save_as_parquet_file_with(&self, url: &str, options: SaveOptions) -> Result<()> {
        options.must_be_plain("Parquet")?;
        let name = url.to_owned();
        self.save(url, options, ".parquet", move |records| {
            let mut writer = ParquetWriter::new(&name)?;
            for record in records {
                writer.push(record)?;
            }
            Ok(writer.finish()?)
        })
    }

    /// Writes each partition as one file, in the format of `encode`, under the name of its part with `ending`.
    fn save(
        &self,
        url: &str,
        options: SaveOptions,
        ending: &str,
        encode: impl Fn(PartitionIter<T>) -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Result<()> {
        match self.context().member() {
            Some(_) => self.save_together(url, options.existing, ending, encode),
            None => self.save_alone(url, options.existing, ending, encode),
        }
    }

    fn save_alone(
        &self,
        url: &str,
        existing: Existing,
        ending: &str,
        encode: impl Fn(PartitionIter<T>) -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Result<()> {
        let folder = Arc::new(self.context().stores().write_folder(url, existing)?);
        // No handle: a thread that asks the job to stop holds it, and all that its closures have, a little longer.
        let (parts, partitions, ending) = (Arc::downgrade(&folder), self.partitions(), ending.to_owned());
        self.run_partitions(move |partition, records| {
            let bytes = Bytes::from(encode(records)?);
            match parts.upgrade() {
                Some(folder) => Ok(folder.write_part(&part_name(partition, partitions, &ending), bytes)?),
                // The action is over.
                None => Ok(()),
            }
        })?;
        match Arc::into_inner(folder) {
            Some(folder) => Ok(folder.commit()?),
            None => Err(EngineError::WorkersStopped {
                reason: format!("a task still writes to {url}"),
            }),
        }
    }

    /// Every step is an action of its own, so that a process that comes later knows what is over. The name comes first:
    /// whatever a dead process has begun can be found by it.
    fn save_together(
        &self,
        url: &str,
        existing: Existing,
        ending: &str,
        encode: impl Fn(PartitionIter<T>) -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Result<()> {
        let context = self.context();
        if existing == Existing::Replace {
            self.check_reads_no_part_of(url)?;
        }
        let name = once(context, || Ok(SharedFolder::draw_name()))?;
        let folder = Arc::new(context.stores().shared_folder(url, &name, existing)?);
        let place = Arc::clone(&folder);
        let begun = once(context, move || Ok(place.begin()?));
        let published = begun.and_then(|()| self.publish_together(&folder, ending, encode));
        let place = Arc::clone(&folder);
        let _unlimited = context.without_limits();
        if let Err(error) = once(context, move || Ok(place.remove_unfinished()?)) {
            // What was asked for is decided, and that is what counts.
            tracing::warn!(url, "could not remove unfinished parts: {error}");
        }
        published
    }

    /// A process that is started again lists what it reads again: it would find what replaces it.
    fn check_reads_no_part_of(&self, url: &str) -> Result<()> {
        let local = |url: &str| absolute(url.strip_prefix("file://").unwrap_or(url)).ok();
        let folder = local(url);
        let lineage = self.context().lineage(self.id());
        for node in lineage.nodes() {
            let Some(reads) = &node.reads else { continue };
            let mut read = (0..node.partitions).flat_map(|partition| reads(partition));
            let part = read.find(|(object, _)| {
                local(&object.url)
                    .zip(folder.as_ref())
                    .is_some_and(|(part, folder)| part.starts_with(folder))
            });
            if let Some((object, _)) = part {
                return Err(EngineError::invalid(
                    format!("several processes replace {url}, and {} is read for that", object.url),
                    "save to another folder; a process that is started for a lost one reads its input again",
                ));
            }
        }
        Ok(())
    }

    fn publish_together(
        &self,
        folder: &Arc<SharedFolder>,
        ending: &str,
        encode: impl Fn(PartitionIter<T>) -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Result<()> {
        let place = Arc::clone(folder);
        let written = self.run_partitions(move |_, records| Ok(place.write_part(&encode(records)?)?))?;
        let partitions = self.partitions();
        let parts: Vec<(String, String)> = (0..)
            .map(|partition| part_name(partition, partitions, ending))
            .zip(written)
            .collect();
        let place = Arc::clone(folder);
        once(self.context(), move || Ok(place.publish(&parts)?))
    }
}

impl<T: Element> Dataset<Vec<T>> {
    /// Writes each partition as an npy file of NumPy, `part-00000.npy` and so on, in the way of
    /// [`save_as_text_file`](Dataset::save_as_text_file). Each record is a row of shape `row_shape`, row-major, of an
    /// array whose outermost side is the number of records; an empty `row_shape` makes a vector of records of one
    /// number.
    ///
    /// # Errors
    /// If a record has another length than its shape says; otherwise as `save_as_text_file`.
    pub fn save_as_npy_file(&self, url: &str, row_shape: &[usize]) -> Result<()> {
        self.save_as_npy_file_with(url, row_shape, SaveOptions::default())
    }

    /// The same as `options` say: in place of what is there.
    ///
    /// # Errors
    /// If `options` ask for gzip, which NumPy does not read; otherwise as `save_as_npy_file` and
    /// `save_as_text_file_with`.
    pub fn save_as_npy_file_with(&self, url: &str, row_shape: &[usize], options: SaveOptions) -> Result<()> {
        options.must_be_plain("npy")?;
        let (name, row_shape) = (url.to_owned(), row_shape.to_vec());
        self.save(url, options, ".npy", move |records| {
            let mut writer = NpyWriter::new(&name, &row_shape)?;
            for record in records {
                writer.push(&record)?;
            }
            Ok(writer.finish())
        })
    }
}

/// By name parts are in the order of partitions, which is that of records when they are read again.
fn part_name(partition: usize, partitions: usize, ending: &str) -> String {
    let digits = partitions.saturating_sub(1).to_string().len().max(5);
    format!("part-{partition:0digits$}{ending}")
}

fn text_of<T: Record + Display>(records: PartitionIter<T>, mut file: TextFile) -> Result<Vec<u8>> {
    let mut line = String::new();
    for record in records {
        line.clear();
        // Writing to a string cannot fail, so it is the record's own doing.
        writeln!(line, "{record}").map_err(|error| {
            let name = std::any::type_name::<T>();
            EngineError::invalid(
                format!("a record of {name} has no text form: its `Display` failed ({error})"),
                "map the records to what can be displayed first",
            )
        })?;
        file.append(line.as_bytes())?;
    }
    Ok(file.finish()?)
}

fn json_of<T: Record>(records: PartitionIter<T>, mut file: TextFile) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    for record in records {
        line.clear();
        serde_json::to_writer(&mut line, &record).map_err(|error| {
            let name = std::any::type_name::<T>();
            EngineError::invalid(
                format!("a record of {name} has no JSON form: {error}"),
                "map the records first, such that the keys of maps are strings or numbers",
            )
        })?;
        line.push(b'\n');
        file.append(&line)?;
    }
    Ok(file.finish()?)
}

#[cfg(test)]
mod tests {
    use super::part_name;

    #[test]
    fn names_of_parts_are_in_the_order_of_partitions() {
        assert_eq!(part_name(7, 100_000, ".txt"), "part-00007.txt");
        assert_eq!(part_name(7, 100_001, ""), "part-000007");
        assert!(part_name(99_999, 100_001, "") < part_name(100_000, 100_001, ""));
    }
}
