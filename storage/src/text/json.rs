//! JSON lines: a value a line.

use std::iter::FusedIterator;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::lines::{LineReader, read_lines_with, text_of};
use super::options::TextOptions;
use super::split::TextSplit;
use crate::error::Result;
use crate::object::{Object, ObjectError};
use crate::remote::Stores;
use crate::split::until_error;

/// Reads the records of a split, one a line; blank lines are left out.
struct JsonReader<T> {
    object: Object,
    lines: LineReader,
    record: PhantomData<fn() -> T>,
}

/// The records of `split`, each a JSON value on a line of its own.
///
/// # Errors
/// An option of 0; reading itself starts with the first record.
pub fn read_json_lines<T: DeserializeOwned>(
    stores: &Stores,
    split: &TextSplit,
    options: TextOptions,
) -> Result<impl FusedIterator<Item = Result<T>> + use<T>> {
    let mut reader = JsonReader {
        object: split.object.clone(),
        lines: read_lines_with(stores, split, options)?,
        record: PhantomData,
    };
    Ok(until_error(move || reader.read()))
}

impl<T: DeserializeOwned> JsonReader<T> {
    fn read(&mut self) -> Result<Option<T>> {
        while let Some((offset, line)) = self.lines.next_whole_line()? {
            let line = text_of(offset, line).trim_ascii();
            if !line.is_empty() {
                return Ok(Some(self::parse(&self.object, offset, line)?));
            }
        }
        Ok(None)
    }
}

fn parse<T: DeserializeOwned>(object: &Object, offset: u64, line: &str) -> Result<T, ObjectError> {
    serde_json::from_str(line).map_err(|error| {
        let place = format!("the line at byte {offset}");
        // The line is always its first: the column is what counts.
        let problem = error.to_string().replace("at line 1 column", "at column");
        let remedy = format!(
            "each line must be a whole JSON value of {}: mend the line or the type",
            std::any::type_name::<T>()
        );
        ObjectError::malformed(&object.url, place, problem, remedy)
    })
}
