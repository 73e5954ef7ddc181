//! JSON lines: a value a line.

use std::iter::FusedIterator;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::blocks::too_long;
use super::lines::text_of;
use super::options::TextOptions;
use super::raw_lines::{AfterBad, RawLine, RawLineReader};
use super::split::TextSplit;
use crate::bad_record::{BadRecord, Unread, with_bad_records};
use crate::error::Result;
use crate::object::ObjectError;
use crate::remote::Stores;
use crate::split::until_error;

/// Reads the records of a split, one a line; blank lines are left out.
struct JsonReader<T> {
    url: String,
    lines: RawLineReader,
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
    let mut reader = JsonReader::open(stores, split, options, AfterBad::End)?;
    Ok(until_error(move || Ok(reader.read()?)))
}

/// The same, with the lines that are no such value in their places: also those that are not UTF-8 or too long.
///
/// # Errors
/// As [`read_json_lines`].
pub fn try_read_json_lines<T: DeserializeOwned>(
    stores: &Stores,
    split: &TextSplit,
    options: TextOptions,
) -> Result<impl FusedIterator<Item = Result<Result<T, BadRecord>>> + use<T>> {
    let mut reader = JsonReader::open(stores, split, options, AfterBad::GoOn)?;
    Ok(with_bad_records(move || reader.read()))
}

impl<T: DeserializeOwned> JsonReader<T> {
    fn open(stores: &Stores, split: &TextSplit, options: TextOptions, after_bad: AfterBad) -> Result<Self> {
        Ok(Self {
            url: split.object.url.clone(),
            lines: RawLineReader::open(stores, split, options, after_bad)?,
            record: PhantomData,
        })
    }

    fn read(&mut self) -> Result<Option<T>, Unread> {
        while let Some(line) = self.lines.next()? {
            match value_of(&self.url, &line) {
                Ok(None) => {}
                Ok(value) => return Ok(value),
                Err(error) => return Err(Unread::record(&self.url, line.start, line.bytes, error)),
            }
        }
        Ok(None)
    }
}

/// The value on a line, if that is not blank.
fn value_of<T: DeserializeOwned>(url: &str, line: &RawLine<'_>) -> Result<Option<T>, ObjectError> {
    if let Some(bytes_max) = line.bytes_max {
        return Err(too_long(url, line.start, bytes_max));
    }
    let text = std::str::from_utf8(line.bytes).map_err(|error| ObjectError::NotUtf8 {
        url: url.to_owned(),
        offset: line.start + error.valid_up_to() as u64,
    })?;
    let text = text_of(line.start, text).trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    let value = serde_json::from_str(text).map_err(|error| {
        let place = format!("the line at byte {}", line.start);
        // The line is always its first: the column is what counts.
        let problem = error.to_string().replace("at line 1 column", "at column");
        let remedy = format!(
            "each line must be a whole JSON value of {}: mend the line or the type",
            std::any::type_name::<T>()
        );
        ObjectError::malformed(url, place, problem, remedy)
    })?;
    Ok(Some(value))
}
