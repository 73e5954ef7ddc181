//! Datasets from files that say themselves what their records are.

use std::any::type_name;

use distdl_storage::array::{ArrayFormat, Element, read_rows, split_arrays};
#[cfg(feature = "arrow")]
use distdl_storage::arrow::{ArrowOptions, read_arrow, split_arrow};
use distdl_storage::csv::{CsvOptions, read_csv, split_csv, try_read_csv};
#[cfg(feature = "parquet")]
use distdl_storage::parquet::{ParquetOptions, read_parquet, split_parquet};
use distdl_storage::text::{read_json_lines, split_text, try_read_json_lines};
use distdl_storage::{BadRecord, Record};

use crate::context::Context;
use crate::dataset::Dataset;
use crate::error::Result;

impl Context {
    /// The records of files with a JSON value on each line; blank lines are left out. Files are cut as those of
    /// [`Context::text_file`].
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("people.jsonl");
    /// # let path = path.to_str().expect("UTF-8");
    /// # let lines = r#"{"name": "Ada", "age": 36}
    /// #     {"age": 41, "name": "Alan"}"#;
    /// # std::fs::write(path, lines).expect("a file");
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Clone, Serialize, Deserialize)]
    /// struct Person {
    ///     name: String,
    ///     age: u32,
    /// }
    /// let people = context.json_lines::<Person>(path, 2)?; // {"name": "Ada", "age": 36} and so on
    /// assert_eq!(people.map(|person| person.age).max()?, Some(41));
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If nothing matches `pattern` or it cannot be listed. That a line is no value of `T` shows when it is read.
    #[track_caller]
    pub fn json_lines<T: Record>(&self, pattern: &str, partitions: usize) -> Result<Dataset<T>> {
        let groups = split_text(&self.stores().list(pattern)?, partitions);
        let (records, options) = (type_name::<T>().to_owned(), self.text_options());
        Ok(
            self.source("json_lines", pattern, records, groups, move |stores, split| {
                Ok(read_json_lines::<T>(stores, split, options)?)
            }),
        )
    }

    /// As [`Context::json_lines`], with the lines that are no value of `T` in their places, also those that are not
    /// UTF-8 or longer than a line may be. A file that cannot be read stays an error. `try_map(|record| record)` makes
    /// an error of each bad line again.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("ages.jsonl");
    /// # let path = path.to_str().expect("UTF-8");
    /// # std::fs::write(path, "[36]\n[4\n[41]\n").expect("a file");
    /// let read = context.try_json_lines::<[u32; 1]>(path, 2)?; // [36], [4 and [41]
    /// let bad = context.counter();
    /// let count = bad.clone();
    /// let ages = read.flat_map(move |record| record.inspect_err(|_| count.add(1)));
    /// assert_eq!(ages.collect()?, [[36], [41]]);
    /// assert_eq!(bad.value(), 1);
    /// let bad = read.flat_map(|record| record.err()).first()?;
    /// assert_eq!((bad.byte, bad.text.as_str()), (5, "[4"));
    /// assert!(bad.problem.starts_with("EOF while parsing a list"));
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Context::json_lines`].
    #[track_caller]
    pub fn try_json_lines<T: Record>(&self, pattern: &str, partitions: usize) -> Result<Dataset<Result<T, BadRecord>>> {
        let groups = split_text(&self.stores().list(pattern)?, partitions);
        let (records, options) = (type_name::<T>().to_owned(), self.text_options());
        Ok(
            self.source("try_json_lines", pattern, records, groups, move |stores, split| {
                Ok(try_read_json_lines::<T>(stores, split, options)?)
            }),
        )
    }

    /// The records of CSV files: a struct whose fields are named as the columns are, or a tuple, which takes them by
    /// position. Files are cut as those of [`Context::text_file`], unless quoted fields may hold line ends, which
    /// `options` must say: each file is read by one partition then. A field that is an `Option` needs a column too,
    /// unless `options` say that it may be missing: a misspelt name would make it `None` in every record.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("people.csv");
    /// # let path = path.to_str().expect("UTF-8");
    /// # use distdl_storage::csv::CsvOptions;
    /// # std::fs::write(path, "age,name\n36,Ada\n41,Alan\n").expect("a file");
    /// let people = context.csv::<(u32, String)>(path, CsvOptions::default(), 2)?;
    /// assert_eq!(people.first()?, (36, "Ada".to_owned()), "a header of names is the default");
    /// let without_header = CsvOptions { header: false, ..CsvOptions::default() };
    /// let lines = context.csv::<(String, String)>(path, without_header, 2)?;
    /// assert_eq!(lines.first()?, ("age".to_owned(), "name".to_owned()));
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If nothing matches `pattern` or it cannot be listed. What is wrong with a record shows when it is read.
    #[track_caller]
    pub fn csv<T: Record>(&self, pattern: &str, options: CsvOptions, partitions: usize) -> Result<Dataset<T>> {
        let groups = split_csv(&self.stores().list(pattern)?, &options, partitions);
        let parameters = format!("{} {options:?}", type_name::<T>());
        let options = self.csv_options(options);
        Ok(self.source("csv", pattern, parameters, groups, move |stores, split| {
            Ok(read_csv::<T>(stores, split, &options)?)
        }))
    }

    /// As [`Context::csv`], with the records that are no values of `T` in their places, as [`Context::try_json_lines`]
    /// has them. A header that cannot be read, or whose names do not fit `T`, stays an error. Without a header a record
    /// must have as many fields as the first value of `T` in its file, which is looked for among the first 100 records.
    /// A quote that is not closed makes its line a bad record; where quoted fields may hold line ends, all that follows
    /// it up to the limit of a line or the end of the file is one.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("people.csv");
    /// # let path = path.to_str().expect("UTF-8");
    /// # use distdl_storage::csv::CsvOptions;
    /// # std::fs::write(path, "age,name\n36,Ada\n41\nold,Alan\n").expect("a file");
    /// let read = context.try_csv::<(u32, String)>(path, CsvOptions::default(), 2)?.cache();
    /// let people = read.flat_map(|record| record.ok());
    /// assert_eq!(people.collect()?, [(36, "Ada".to_owned())]);
    /// let bad = read.flat_map(|record| record.err());
    /// assert_eq!(bad.map(|bad| (bad.byte, bad.text)).collect()?, [(16, "41".to_owned()), (19, "old,Alan".to_owned())]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Context::csv`].
    #[track_caller]
    pub fn try_csv<T: Record>(
        &self,
        pattern: &str,
        options: CsvOptions,
        partitions: usize,
    ) -> Result<Dataset<Result<T, BadRecord>>> {
        let groups = split_csv(&self.stores().list(pattern)?, &options, partitions);
        let parameters = format!("{} {options:?}", type_name::<T>());
        let options = self.csv_options(options);
        Ok(
            self.source("try_csv", pattern, parameters, groups, move |stores, split| {
                Ok(try_read_csv::<T>(stores, split, &options)?)
            }),
        )
    }

    /// The rows of arrays in IDX files, as MNIST has them: what one index of the outermost side selects, row-major.
    /// Rows are dealt in equal numbers; a compressed file is read whole by one partition.
    ///
    /// # Errors
    /// If nothing matches `pattern`, a file is no such array of `T` or not as long as it says, or rows differ in shape.
    #[track_caller]
    pub fn idx<T: Element>(&self, pattern: &str, partitions: usize) -> Result<Dataset<Vec<T>>> {
        self.arrays("idx", pattern, ArrayFormat::Idx, partitions)
    }

    /// The same for arrays in NumPy's npy files, in C order.
    ///
    /// # Errors
    /// As [`Context::idx`].
    #[track_caller]
    pub fn npy<T: Element>(&self, pattern: &str, partitions: usize) -> Result<Dataset<Vec<T>>> {
        self.arrays("npy", pattern, ArrayFormat::Npy, partitions)
    }

    /// The same for the array that NumPy's npz archives hold under the name `array`. Where they are compressed, one
    /// partition reads all of an archive's array.
    ///
    /// # Errors
    /// As [`Context::idx`], and if an archive has no such array.
    #[track_caller]
    pub fn npz<T: Element>(&self, pattern: &str, array: &str, partitions: usize) -> Result<Dataset<Vec<T>>> {
        let array = array.to_owned();
        self.arrays("npz", pattern, ArrayFormat::Npz { array }, partitions)
    }

    #[track_caller]
    fn arrays<T: Element>(
        &self,
        operator: &'static str,
        pattern: &str,
        format: ArrayFormat,
        partitions: usize,
    ) -> Result<Dataset<Vec<T>>> {
        let groups = split_arrays::<T>(self.stores(), &self.stores().list(pattern)?, &format, partitions)?;
        let parameters = format!("{} {format:?}", type_name::<T>());
        Ok(self.source(operator, pattern, parameters, groups, |stores, split| {
            Ok(read_rows::<T>(stores, split)?)
        }))
    }

    /// The rows of Parquet files as structs whose fields are named as columns are. Row groups are dealt by their bytes,
    /// and none is cut; of each only the columns that `options` names are fetched. Dates and times become text, or
    /// numbers in the unit of the files; those of the type INT96 are microseconds since 1970. A field that is an
    /// `Option` needs a column too, unless `options` say that it may be missing.
    ///
    /// # Errors
    /// If nothing matches `pattern`, or a footer cannot be read or does not fit `options`, or files hold a column in
    /// different units of time.
    #[cfg(feature = "parquet")]
    #[track_caller]
    pub fn parquet<T: Record>(&self, pattern: &str, options: ParquetOptions, partitions: usize) -> Result<Dataset<T>> {
        let groups = split_parquet(self.stores(), &self.stores().list(pattern)?, &options, partitions)?;
        let parameters = format!("{} {options:?}", type_name::<T>());
        Ok(
            self.source("parquet", pattern, parameters, groups, move |stores, split| {
                Ok(read_parquet::<T>(stores, split, &options)?)
            }),
        )
    }

    /// The rows of Arrow IPC files as structs whose fields are named as columns are. Record batches are dealt by their
    /// bytes, and none is cut. Dates and times become text, or numbers in the unit of the files. A field
    /// that is an `Option` needs a column too, unless `options` say that it may be missing.
    ///
    /// # Errors
    /// If nothing matches `pattern`, or a footer cannot be read or does not fit `options`, or files hold a column in
    /// different units of time.
    #[cfg(feature = "arrow")]
    #[track_caller]
    pub fn arrow<T: Record>(&self, pattern: &str, options: ArrowOptions, partitions: usize) -> Result<Dataset<T>> {
        let groups = split_arrow(self.stores(), &self.stores().list(pattern)?, &options, partitions)?;
        let parameters = format!("{} {options:?}", type_name::<T>());
        Ok(self.source("arrow", pattern, parameters, groups, move |stores, split| {
            Ok(read_arrow::<T>(stores, split, &options)?)
        }))
    }
}
