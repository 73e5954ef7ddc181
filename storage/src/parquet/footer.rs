//! What the footer says of a file, and where the wanted columns of a row group lie.

use std::ops::Range;
use std::sync::Arc;

use arrow_schema::{DataType, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaDataReader};

use super::{ParquetOptions, nesting};
use crate::error::Result;
use crate::object::{Object, ObjectError};
use crate::remote::Stores;
use crate::table::{FETCH, Outline, columns, end, footer, guarded};

/// Length of the footer's length and the magic number behind it.
const TRAILER_BYTES: u64 = 8;
/// The magic number at the start, and those at the end.
const LEAST_BYTES: u64 = 4 + TRAILER_BYTES;
/// Two ranges that are no further apart than this, in bytes, are read at once.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// The schema with values of the type INT96, in which older programs write times, in microseconds; none if there are no
/// such values. In nanoseconds, which arrow takes for them, the years before 1677 and after 2262 would be others.
fn in_microseconds(metadata: &ArrowReaderMetadata) -> Option<SchemaRef> {
    let columns = metadata.parquet_schema().columns().iter();
    let mut are_times = columns.map(|column| column.physical_type() == PhysicalType::INT96);
    if !are_times.clone().any(|is_time| is_time) {
        return None;
    }
    let fields = metadata.schema().fields().iter();
    let fields: Fields = fields.map(|field| with_times(field, &mut are_times)).collect();
    Some(Arc::new(Schema::new(fields)))
}

/// A field in which times are in microseconds. Both schemas have the same values that hold no others, in the same
/// order, and `are_times` says of each from this field on whether it is a time.
fn with_times(field: &FieldRef, are_times: &mut impl Iterator<Item = bool>) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| with_times(field, are_times)).collect()),
        DataType::List(item) => DataType::List(with_times(item, are_times)),
        DataType::Map(entries, sorted) => DataType::Map(with_times(entries, are_times), *sorted),
        _ if are_times.next() == Some(true) => DataType::Timestamp(TimeUnit::Microsecond, None),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// A footer and what is wanted of its file.
#[derive(Debug, Clone)]
pub(super) struct Footer {
    pub(super) metadata: ArrowReaderMetadata,
    pub(super) mask: ProjectionMask,
}

impl Footer {
    pub(super) fn read(stores: &Stores, object: &Object, options: &ParquetOptions) -> Result<Self> {
        let end = end(stores, object, LEAST_BYTES)?;
        let trailer = &end[end.len() - TRAILER_BYTES as usize..];
        let length = match trailer {
            [a, b, c, d, b'P', b'A', b'R', b'1'] => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => {
                let problem = "it does not end as a Parquet file does; encrypted ones cannot be read";
                return Err(ObjectError::malformed(&object.url, "its end", problem, FETCH).into());
            }
        };
        let bytes = footer(
            stores,
            object,
            &end,
            length.into(),
            TRAILER_BYTES,
            options.footer_bytes_max,
        )?;
        nesting::check(&bytes).map_err(|problem| ObjectError::malformed(&object.url, "its footer", problem, FETCH))?;
        let metadata = guarded(&object.url, "its footer", || {
            let metadata = ParquetMetaDataReader::decode_metadata(&bytes)?;
            // What arrow adds to the schema is left aside: columns are what Parquet says they are.
            let metadata = Arc::new(metadata);
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let plain = ArrowReaderMetadata::try_new(Arc::clone(&metadata), options.clone())?;
            match in_microseconds(&plain) {
                Some(schema) => ArrowReaderMetadata::try_new(metadata, options.with_schema(schema)),
                None => Ok(plain),
            }
        })?;
        let schema = metadata.parquet_schema();
        let names: Vec<&str> = schema
            .root_schema()
            .get_fields()
            .iter()
            .map(|field| field.name())
            .collect();
        let wanted = columns(&object.url, &names, options.columns.as_deref())?;
        let mask = ProjectionMask::roots(schema, wanted);
        Ok(Self { metadata, mask })
    }

    /// The bytes of row group `index` that hold wanted columns, in order, neighbours together.
    pub(super) fn ranges(&self, object: &Object, index: usize, bytes_max: u64) -> Result<Vec<Range<u64>>, ObjectError> {
        let place = format!("row group {index}");
        let group = self.metadata.metadata().row_group(index);
        let wanted = group
            .columns()
            .iter()
            .enumerate()
            .filter(|(leaf, _)| self.mask.leaf_included(*leaf));
        let mut ranges = Vec::new();
        let (mut stored, mut unpacked) = (0_u64, 0_u64);
        for (_, column) in wanted {
            let Some(range) = chunk_range(column).filter(|range| range.end <= object.bytes) else {
                let problem = format!("column `{}` lies outside of the file", column.column_path());
                return Err(ObjectError::malformed(&object.url, place, problem, FETCH));
            };
            stored = stored.saturating_add(range.end - range.start);
            unpacked = unpacked.saturating_add(u64::try_from(column.uncompressed_size()).unwrap_or(u64::MAX));
            ranges.push(range);
        }
        let bytes = stored.max(unpacked);
        if bytes > bytes_max {
            let problem = format!("its columns take {bytes} bytes, above the limit of {bytes_max}");
            let remedy =
                "choose fewer columns, write smaller row groups, or raise `ParquetOptions::row_group_bytes_max`";
            return Err(ObjectError::malformed(&object.url, place, problem, remedy));
        }
        Ok(neighbours_together(ranges))
    }
}

/// Where a column of a row group lies: its dictionary, if it has one, and its pages.
fn chunk_range(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let dictionary = column.dictionary_page_offset().filter(|offset| *offset > 0);
    let start = u64::try_from(dictionary.unwrap_or(i64::MAX).min(column.data_page_offset())).ok()?;
    let length = u64::try_from(column.compressed_size()).ok()?;
    Some(start..start.checked_add(length)?)
}

fn neighbours_together(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut together: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match together.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP_BYTES_MAX) => last.end = last.end.max(range.end),
            _ => together.push(range),
        }
    }
    together
}

/// The columns, and stored bytes of those that are wanted of each row group.
pub(super) fn outline(stores: &Stores, object: &Object, options: &ParquetOptions) -> Result<Outline> {
    let footer = Footer::read(stores, object, options)?;
    let bytes = |index| {
        let ranges = footer.ranges(object, index, options.row_group_bytes_max)?;
        Ok(ranges.iter().map(|range| range.end - range.start).sum())
    };
    let metadata = footer.metadata.metadata();
    let sizes = (0..metadata.num_row_groups()).map(bytes).collect::<Result<_>>()?;
    Ok(Outline {
        schema: Arc::clone(footer.metadata.schema()),
        sizes,
        // Some programs write one row group of none.
        has_rows: metadata.file_metadata().num_rows() > 0,
    })
}
