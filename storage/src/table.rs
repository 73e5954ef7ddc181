//! What column formats have in common: record batches become values of a type, and bad files do no harm.

mod present;

mod units;

use std::collections::VecDeque;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::{self, ScopedJoinHandle};

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::columns::unseen;
use crate::error::Result;
use crate::object::{Object, ObjectError};
use crate::remote::Stores;
use crate::split::{Extent, deal};
use crate::table::present::Present;
use crate::table::units::Units;

/// Rows that are made values of at a time.
const ROWS: usize = 1024;
/// Read at the end of a file at once, in bytes: most footers are shorter.
const TAIL_BYTES: u64 = 64 << 10;
/// Footers that are read at a time: most of the time that takes is waiting for the store.
const FOOTERS_MAX: usize = 16;
/// Longest words of a decoder in an error, in letters.
const WORDS_MAX: usize = 400;
/// How to mend a file whose parts do not fit together.
pub(crate) const FETCH: &str = "fetch the file again, or write it anew";

/// The last `length` bytes of an object, `known` if those are enough, which are its last ones too.
pub(crate) fn tail(stores: &Stores, object: &Object, known: Option<&Bytes>, length: u64) -> Result<Bytes> {
    if let Some(known) = known.filter(|known| known.len() as u64 >= length) {
        return Ok(known.slice(known.len() - length as usize..));
    }
    stores.read_range(object, object.bytes - length..object.bytes)
}

/// The end of an object, perhaps with all of its footer, or an error if it is shorter than `least`.
pub(crate) fn end(stores: &Stores, object: &Object, least: u64) -> Result<Bytes> {
    if object.bytes < least {
        let problem = format!("{} bytes are less than any such file has", object.bytes);
        return Err(ObjectError::malformed(&object.url, "its end", problem, FETCH).into());
    }
    tail(stores, object, None, object.bytes.min(TAIL_BYTES))
}

/// The bytes of a footer of `length`, which lies before the last `after` bytes.
pub(crate) fn footer(
    stores: &Stores,
    object: &Object,
    end: &Bytes,
    length: u64,
    after: u64,
    bytes_max: u64,
) -> Result<Bytes> {
    if length > bytes_max || length > object.bytes - after {
        let problem = format!("a footer of {length} bytes, above the limit of {bytes_max} or longer than the file");
        let remedy = "fetch the file again, or raise `footer_bytes_max`";
        return Err(ObjectError::malformed(&object.url, "its end", problem, remedy).into());
    }
    let bytes = tail(stores, object, Some(end), length + after)?;
    Ok(bytes.slice(..length as usize))
}

/// Runs a decoder on bytes that may be anything. It should not panic; if it does, that is an error too.
pub(crate) fn guarded<R, E: Display>(
    url: &str,
    place: impl Display,
    decode: impl FnOnce() -> Result<R, E>,
) -> Result<R, ObjectError> {
    let problem = match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Ok(decoded)) => return Ok(decoded),
        Ok(Err(error)) => error.to_string().chars().take(WORDS_MAX).collect(),
        Err(_) => "its parts contradict each other".to_owned(),
    };
    Err(ObjectError::malformed(url, place, problem, FETCH))
}

/// Indices of the `wanted` columns among `names`, in the file's order; all of them if none are named.
pub(crate) fn columns(url: &str, names: &[&str], wanted: Option<&[String]>) -> Result<Vec<usize>, ObjectError> {
    let Some(wanted) = wanted else {
        return Ok((0..names.len()).collect());
    };
    if let Some(missing) = wanted.iter().find(|name| !names.contains(&name.as_str())) {
        let problem = format!("there is no column `{missing}`");
        let remedy = format!("its columns are `{}`", names.join("`, `"));
        return Err(ObjectError::malformed(url, "its schema", problem, remedy));
    }
    let wanted = |index: &usize| wanted.iter().any(|name| name == names[*index]);
    Ok((0..names.len()).filter(wanted).collect())
}

/// What the footer says of an object.
pub(crate) struct Outline {
    /// Its columns.
    pub(crate) schema: SchemaRef,
    /// The stored bytes of each of its parts.
    pub(crate) sizes: Vec<u64>,
    /// Whether any of them has a row, as far as the footer says.
    pub(crate) has_rows: bool,
}

/// The stored bytes of the parts of each object, of which `read` gives what the footer says; a few are read at a time,
/// and the first object that is wrong is the one of the error. Objects that mean different things by the numbers of a
/// `wanted` column are an error too.
pub(crate) fn parts(
    objects: &[Object],
    wanted: Option<&[String]>,
    read: impl Fn(&Object) -> Result<Outline> + Sync,
) -> Result<Vec<Vec<u64>>> {
    let (mut units, mut parts) = (Units::default(), Vec::with_capacity(objects.len()));
    let mut take = |object: &Object, outline: Outline| -> Result<()> {
        // What has no rows is often written with other types.
        if outline.has_rows {
            units.check(&object.url, &outline.schema, wanted)?;
        }
        parts.push(outline.sizes);
        Ok(())
    };
    let read = &read;
    thread::scope(|scope| {
        let (mut rest, mut under_way) = (objects.iter(), VecDeque::new());
        loop {
            for object in rest.by_ref().take(FOOTERS_MAX - under_way.len()) {
                let reading = thread::Builder::new().spawn_scoped(scope, move || read(object));
                under_way.push_back((object, reading));
            }
            let Some((object, reading)) = under_way.pop_front() else {
                return Ok(());
            };
            let outline = match reading.map(ScopedJoinHandle::join) {
                Ok(Ok(outline)) => outline?,
                Ok(Err(panic)) => resume_unwind(panic),
                // The system has no thread to spare.
                Err(_) => read(object)?,
            };
            take(object, outline)?;
        }
    })
    .map(|()| parts)
}

/// An error if a field of `T` would be `None` in every row, which `option` would allow.
pub(crate) fn has_columns<T: DeserializeOwned>(url: &str, schema: &Schema, option: &str) -> Result<(), ObjectError> {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    match unseen::<T>(&names, "schema", option) {
        Some((problem, remedy)) => Err(ObjectError::malformed(url, "its schema", problem, remedy)),
        None => Ok(()),
    }
}

/// Deals parts of objects that cannot be cut, by their bytes: for each partition the objects in it, by index, and which
/// of their parts.
pub(crate) fn deal_parts(bytes: &[Vec<u64>], partitions: usize) -> Vec<Vec<(usize, std::ops::Range<usize>)>> {
    let parts: Vec<(usize, usize, u64)> = bytes
        .iter()
        .enumerate()
        .flat_map(|(object, parts)| {
            parts
                .iter()
                .enumerate()
                .map(move |(part, bytes)| (object, part, *bytes))
        })
        .collect();
    let whole = |(_, _, bytes): &(usize, usize, u64)| Extent {
        units: (*bytes).max(1),
        whole: true,
    };
    let extents: Vec<Extent> = parts.iter().map(whole).collect();
    let mut dealt = Vec::with_capacity(partitions);
    for group in deal(&extents, partitions) {
        let mut ranges: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
        for (index, _) in group {
            let (object, part, _) = parts[index];
            match ranges.last_mut() {
                Some((last, range)) if *last == object => range.end = part + 1,
                _ => ranges.push((object, part..part + 1)),
            }
        }
        dealt.push(ranges);
    }
    dealt
}

/// The rows of one record batch after the other as values.
pub(crate) struct BatchRows<T> {
    batch: Option<RecordBatch>,
    position: usize,
    values: std::vec::IntoIter<T>,
}

impl<T> Default for BatchRows<T> {
    fn default() -> Self {
        Self {
            batch: None,
            position: 0,
            values: Vec::new().into_iter(),
        }
    }
}

impl<T: DeserializeOwned> BatchRows<T> {
    /// Goes on with `batch`; the one before must be at its end.
    pub(crate) fn refill(&mut self, batch: RecordBatch) {
        (self.batch, self.position) = (Some(batch), 0);
    }

    /// The next value of the batch.
    pub(crate) fn next(&mut self, url: &str, place: impl Display) -> Result<Option<T>> {
        if let Some(value) = self.values.next() {
            return Ok(Some(value));
        }
        let Some(batch) = self.batch.as_ref().filter(|batch| self.position < batch.num_rows()) else {
            return Ok(None);
        };
        let rows = batch.slice(self.position, ROWS.min(batch.num_rows() - self.position));
        let values = catch_unwind(AssertUnwindSafe(|| from_batch::<T>(&rows)));
        let problem = match values {
            Ok(Ok(values)) if values.len() == rows.num_rows() => {
                self.position += rows.num_rows();
                self.values = values.into_iter();
                return Ok(self.values.next());
            }
            Ok(Ok(_)) => "there are no columns to make records of".to_owned(),
            Ok(Err(error)) => error.message().chars().take(WORDS_MAX).collect(),
            Err(_) => "its rows cannot be read".to_owned(),
        };
        let place = format!("{place}, rows {}..{}", self.position, self.position + rows.num_rows());
        let names: Vec<&str> = rows
            .schema_ref()
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        let remedy = format!(
            "fields of {} must be named and typed as the columns are (`{}`)",
            std::any::type_name::<T>(),
            names.join("`, `")
        );
        Err(ObjectError::malformed(url, place, problem, remedy).into())
    }
}

fn from_batch<T: DeserializeOwned>(rows: &RecordBatch) -> serde_arrow::Result<Vec<T>> {
    let rows: Vec<Present<T>> = serde_arrow::from_record_batch(rows)?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}

#[cfg(test)]
pub(crate) mod tests;
