//! Files from one process or from many, a part for each partition.

use std::fmt::Display;

use distdl_storage::Record;
use distdl_storage::array::{Element, NpyWriter};
use distdl_storage::csv::CsvOptions;

#[cfg(feature = "parquet")]
use super::encoders::parquet_file;
use super::encoders::{Encoder, SaveOptions, csv_file, json_lines, text_lines};
use crate::dataset::Dataset;
use crate::error::Result;

impl<T: Record + Display> Dataset<T> {
    /// Writes each partition as a text file, `part-00000` and so on, a line a record (text that has line ends in it
    /// comes back as several; a `\r` at the end of a record is taken for part of the line's end, and a byte order mark
    /// at the start of a part is dropped; JSON lines bear them all), into a new folder or object prefix `url`. All of
    /// it appears at once, when every part is complete and synced, or not at all.
    ///
    /// Of several processes each writes the parts that it computes, and one publishes them: `url` must be in a bucket,
    /// or a folder that all of them see, on a file system that knows hard links. In a bucket what is not the same when
    /// it is computed again must be kept first. Who dies half way leaves nothing behind once the action is over. No
    /// shuffle of its own; a partition's text is held in memory while it is written.
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
    /// # use distdl_storage::text::FileCompression;
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let url = folder.path().join("squares");
    /// # let url = url.to_str().expect("UTF-8");
    /// let squares = context.range(0..5, 2).map(|number| number * number);
    /// squares.save_as_text_file(url)?;
    /// let options = SaveOptions { compression: FileCompression::Gzip, existing: Existing::Replace };
    /// squares.save_as_text_file_with(url, options)?; // part-00000.gz and part-00001.gz
    /// assert_eq!(context.text_file(url, 2)?.collect()?, ["0", "1", "4", "9", "16"]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As `save_as_text_file`; or what is there is to be replaced and cannot be, as
    /// [`Existing::Replace`](distdl_storage::remote::Existing::Replace) says.
    pub fn save_as_text_file_with(&self, url: &str, options: SaveOptions) -> Result<()> {
        self.save(url, options, &options.ending(""), text_lines(url, options))
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
        self.save(url, options, &options.ending(".jsonl"), json_lines(url, options))
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
        let options = self.context().csv_options(options.clone());
        self.save(url, saving, &saving.ending(".csv"), csv_file(url, options, saving))
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
    /// If `options` ask for compression, which Parquet has within; otherwise as `save_as_parquet_file` and
    /// `save_as_text_file_with`.
    #[cfg(feature = "parquet")]
    pub fn save_as_parquet_file_with(&self, url: &str, options: SaveOptions) -> Result<()> {
        self.save(url, options, ".parquet", parquet_file(url, options)?)
    }

    /// Writes each partition as one file, as what `begin` gives makes it.
    fn save<E: Encoder<T>>(
        &self,
        url: &str,
        options: SaveOptions,
        ending: &str,
        begin: impl Fn() -> Result<E> + Send + Sync + 'static,
    ) -> Result<()> {
        self.publish(url, options.existing, ending, move |mut records| {
            let mut file = begin()?;
            records.try_for_each(|record| file.push(record))?;
            Ok(vec![(String::new(), file.finish()?)])
        })
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
    /// If `options` ask for compression, which NumPy does not read; otherwise as `save_as_npy_file` and
    /// `save_as_text_file_with`.
    pub fn save_as_npy_file_with(&self, url: &str, row_shape: &[usize], options: SaveOptions) -> Result<()> {
        options.must_be_plain("npy")?;
        let (name, row_shape) = (url.to_owned(), row_shape.to_vec());
        self.save(url, options, ".npy", move || {
            let file: NpyWriter<T> = NpyWriter::new(&name, &row_shape)?;
            Ok(file)
        })
    }
}
