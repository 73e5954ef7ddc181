//! Records beside the names of their files.

use std::any::type_name;

use distdl_storage::Record;
use distdl_storage::csv::{CsvOptions, read_csv, split_csv};
use distdl_storage::remote::Stores;
use distdl_storage::text::{read_json_lines, read_lines_with, split_text};

use super::splits::InputSplit;
use crate::batch::TaskResult;
use crate::context::Context;
use crate::dataset::Dataset;
use crate::error::Result;

impl Context {
    /// The lines of text files as [`Context::text_file`] has them, each beside the name of its file: (path or URL,
    /// line), with the names that [`Context::objects`] gives.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # std::fs::write(folder.path().join("a.txt"), "one\ntwo\n").expect("a file");
    /// # std::fs::write(folder.path().join("b.txt"), "three\n").expect("a file");
    /// # let pattern = format!("{}/*.txt", folder.path().display());
    /// let lines = context.text_file_with_names(&pattern, 2)?; // (".../a.txt", "one") and so on
    /// let of_b = lines.filter(|(name, _)| name.ends_with("/b.txt")).values();
    /// assert_eq!(of_b.collect()?, ["three"]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Context::text_file`].
    #[track_caller]
    pub fn text_file_with_names(&self, pattern: &str, partitions: usize) -> Result<Dataset<(String, String)>> {
        let groups = split_text(&self.stores().list(pattern)?, partitions);
        let options = self.text_options();
        let open = with_names(move |stores, split| Ok(read_lines_with(stores, split, options)?));
        Ok(self.source("text_file_with_names", pattern, String::new(), groups, open))
    }

    /// The records of [`Context::json_lines`], each beside the name of its file.
    ///
    /// # Errors
    /// As [`Context::json_lines`].
    #[track_caller]
    pub fn json_lines_with_names<T: Record>(&self, pattern: &str, partitions: usize) -> Result<Dataset<(String, T)>> {
        let groups = split_text(&self.stores().list(pattern)?, partitions);
        let (records, options) = (type_name::<T>().to_owned(), self.text_options());
        let open = with_names(move |stores, split| Ok(read_json_lines::<T>(stores, split, options)?));
        Ok(self.source("json_lines_with_names", pattern, records, groups, open))
    }

    /// The records of [`Context::csv`], each beside the name of its file.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # use distdl_storage::csv::CsvOptions;
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # std::fs::write(folder.path().join("1.csv"), "[1]\n[2]\n").expect("a file");
    /// # std::fs::write(folder.path().join("2.csv"), "[3]\n").expect("a file");
    /// # let pattern = format!("{}/*.csv", folder.path().display());
    /// let without_header = CsvOptions { header: false, ..CsvOptions::default() };
    /// let rows = context.csv_with_names::<(String,)>(&pattern, without_header, 3)?;
    /// let rows = rows.map(|(name, (text,))| (name, text));
    /// assert_eq!(rows.collect()?, context.text_file_with_names(&pattern, 5)?.collect()?);
    /// let json = context.json_lines_with_names::<[u8; 1]>(&pattern, 2)?;
    /// assert_eq!(json.keys().collect()?, rows.keys().collect()?);
    /// assert_eq!(json.values().collect()?, [[1], [2], [3]]);
    /// let names = context.objects(&pattern, 1)?.keys();
    /// assert_eq!(rows.keys().distinct().count()?, names.count()?);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Context::csv`].
    #[track_caller]
    pub fn csv_with_names<T: Record>(
        &self,
        pattern: &str,
        options: CsvOptions,
        partitions: usize,
    ) -> Result<Dataset<(String, T)>> {
        let groups = split_csv(&self.stores().list(pattern)?, &options, partitions);
        let parameters = format!("{} {options:?}", type_name::<T>());
        let options = self.csv_options(options);
        let open = with_names(move |stores, split| Ok(read_csv::<T>(stores, split, &options)?));
        Ok(self.source("csv_with_names", pattern, parameters, groups, open))
    }
}

/// What `open` reads of a split, beside the name of the object that it is a part of.
fn with_names<S: InputSplit, I>(
    open: impl Fn(&Stores, &S) -> TaskResult<I> + Clone,
) -> impl Fn(&Stores, &S) -> TaskResult<WithName<I>> + Clone {
    move |stores, split| {
        Ok(WithName {
            name: split.object().url.clone(),
            records: open(stores, split)?,
        })
    }
}

struct WithName<I> {
    name: String,
    records: I,
}

impl<T, I: Iterator<Item = distdl_storage::Result<T>>> Iterator for WithName<I> {
    type Item = distdl_storage::Result<(String, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.next()?;
        Some(record.map(|record| (self.name.clone(), record)))
    }
}
