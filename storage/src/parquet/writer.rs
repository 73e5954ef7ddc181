//! Values as a Parquet file.

use std::fmt;
use std::sync::Arc;

use arrow_schema::{FieldRef, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_arrow::schema::{SchemaLike, TracingOptions};

use crate::error::Result;
use crate::object::ObjectError;

/// Rows of a row group that is written, but for the last: what one partition reads at least.
pub const ROW_GROUP_ROWS: usize = 1 << 16;
/// Rows that are encoded at a time.
const BATCH_ROWS: usize = 1024;

/// Makes a Parquet file, row by row in memory, with Snappy and row groups of [`ROW_GROUP_ROWS`]. Its columns are the
/// fields of the type, so all files of one type have the same ones.
pub struct ParquetWriter<T> {
    url: String,
    fields: Vec<FieldRef>,
    writer: ArrowWriter<Vec<u8>>,
    rows: Vec<T>,
}

impl<T> fmt::Debug for ParquetWriter<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ParquetWriter")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

impl<T: Serialize + DeserializeOwned> ParquetWriter<T> {
    /// A file without rows. `url` is what errors call it.
    ///
    /// # Errors
    /// The type is no struct, or has fields for which there are no columns (enums with data).
    pub fn new(url: &str) -> Result<Self> {
        Self::with_row_group_rows(url, ROW_GROUP_ROWS)
    }

    /// The same with row groups of another number of rows, at least 1.
    ///
    /// # Errors
    /// As [`ParquetWriter::new`].
    pub fn with_row_group_rows(url: &str, row_group_rows: usize) -> Result<Self> {
        let options = TracingOptions::default()
            .allow_null_fields(true)
            .enums_without_data_as_strings(true)
            .strings_as_large_utf8(false)
            .sequence_as_large_list(false);
        let fields = Vec::<FieldRef>::from_type::<T>(options).map_err(|error| no_columns::<T>(url, error.message()))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(row_group_rows.max(1)))
            .build();
        let schema = Arc::new(Schema::new(fields.clone()));
        let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))
            .map_err(|error| no_columns::<T>(url, &error.to_string()))?;
        Ok(Self {
            url: url.to_owned(),
            fields,
            writer,
            rows: Vec::new(),
        })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// It cannot be made into columns.
    pub fn push(&mut self, row: T) -> Result<()> {
        self.rows.push(row);
        match self.rows.len() < BATCH_ROWS {
            true => Ok(()),
            false => self.write(),
        }
    }

    /// The file.
    ///
    /// # Errors
    /// The last rows cannot be made into columns.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.write()?;
        let bytes = self.writer.into_inner();
        Ok(bytes.map_err(|error| no_columns::<T>(&self.url, &error.to_string()))?)
    }

    fn write(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let batch = serde_arrow::to_record_batch(&self.fields, &self.rows)
            .map_err(|error| no_columns::<T>(&self.url, error.message()))?;
        self.rows.clear();
        let written = self.writer.write(&batch);
        Ok(written.map_err(|error| no_columns::<T>(&self.url, &error.to_string()))?)
    }
}

fn no_columns<T>(url: &str, problem: &str) -> ObjectError {
    let remedy = "map the records to a struct of numbers, strings, options, lists and structs first";
    ObjectError::malformed(url, std::any::type_name::<T>(), problem, remedy)
}
