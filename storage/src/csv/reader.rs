//! Records become values of a type.

use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::ops::Range;

use csv::{ErrorKind, StringRecord};
use serde::de::DeserializeOwned;

use super::CsvOptions;
use super::fields::FieldReader;
use crate::columns::{shown, unseen};
use crate::error::Result;
use crate::object::ObjectError;
use crate::remote::Stores;
use crate::split::until_error;
use crate::text::{TextOptions, TextSplit, text_split};

/// Read at once where only the first record is wanted, in bytes.
const HEADER_PIECE_BYTES: usize = 16 << 10;

/// Reads the records of a split.
struct CsvReader<T> {
    rows: FieldReader,
    /// The first record of the file, and where it starts.
    first: StringRecord,
    first_offset: Option<u64>,
    named: bool,
    /// Whether the first record is still to be given.
    first_due: bool,
    record: StringRecord,
    value: PhantomData<fn() -> T>,
}

/// The records of `split` as values of `T`: a struct whose fields are named as the columns are, or a tuple, which takes
/// them by position.
///
/// # Errors
/// Options that make no sense together, or the first record of the file cannot be read, or lacks the column of an
/// optional field where [`CsvOptions::columns_may_be_missing`] is off.
pub fn read_csv<T: DeserializeOwned>(
    stores: &Stores,
    split: &TextSplit,
    options: &CsvOptions,
) -> Result<impl FusedIterator<Item = Result<T>> + use<T>> {
    check(&split.object.url, options)?;
    let mut rows = FieldReader::open(stores, split, options)?;
    let mut first = StringRecord::new();
    let is_start = split.compression.is_some() || split.range.start == 0;
    let first_offset = match is_start {
        true => rows.next(&mut first)?,
        false => read_first(stores, split, options, &mut first)?,
    };
    if let Some(offset) = first_offset.filter(|_| options.header && !options.columns_may_be_missing) {
        has_columns::<T>(&rows, offset, &first)?;
    }
    let mut reader = CsvReader {
        rows,
        first_due: is_start && !options.header && first_offset.is_some(),
        first,
        first_offset,
        named: options.header,
        record: StringRecord::new(),
        value: PhantomData,
    };
    Ok(until_error(move || reader.read()))
}

/// Of a field that cannot be read an error shows so much.
const FIELD_CHARS_SHOWN: usize = 40;

/// Whether the options go together, of the file that errors call `url`.
pub(super) fn check(url: &str, options: &CsvOptions) -> Result<(), ObjectError> {
    let CsvOptions { delimiter, quote, .. } = options;
    let usable = |byte: &u8| byte.is_ascii() && !b"\r\n".contains(byte);
    let quote_is_usable = quote.is_none_or(|quote| usable(&quote) && *delimiter != quote);
    if usable(delimiter) && quote_is_usable {
        return Ok(());
    }
    let remedy = "delimiter and quote in `CsvOptions` must be two different ASCII characters and no line ends";
    Err(ObjectError::unsupported(url, remedy))
}

/// An error if a field would be `None` in every record.
fn has_columns<T: DeserializeOwned>(rows: &FieldReader, offset: u64, names: &StringRecord) -> Result<(), ObjectError> {
    let names: Vec<&str> = names.iter().collect();
    match unseen::<T>(&names, "header", "CsvOptions::columns_may_be_missing") {
        Some((problem, remedy)) => Err(rows.malformed(offset, problem, remedy)),
        None => Ok(()),
    }
}

/// Reads the first record of the file that `split` is a later part of.
fn read_first(
    stores: &Stores,
    split: &TextSplit,
    options: &CsvOptions,
    first: &mut StringRecord,
) -> Result<Option<u64>> {
    let Range { end, .. } = split.range;
    let start = text_split(&split.object, 0..end);
    let text = TextOptions {
        piece_bytes: options.text().piece_bytes.min(HEADER_PIECE_BYTES),
        ..options.text()
    };
    let options = CsvOptions {
        text: Some(text),
        ..options.clone()
    };
    FieldReader::open(stores, &start, &options)?.next(first)
}

impl<T: DeserializeOwned> CsvReader<T> {
    fn read(&mut self) -> Result<Option<T>> {
        if let Some(offset) = self.first_offset.filter(|_| std::mem::take(&mut self.first_due)) {
            return self.value(offset, &self.first).map(Some);
        }
        while let Some(offset) = self.rows.next(&mut self.record)? {
            // Behind blank lines the names may start in any split.
            if self.named && self.first_offset == Some(offset) {
                continue;
            }
            if self.record.len() != self.first.len() {
                let problem = format!(
                    "{} fields, but the first record of the file has {}",
                    self.record.len(),
                    self.first.len()
                );
                let remedy = "mend the record, or set the delimiter that the file uses";
                return Err(self.rows.malformed(offset, problem, remedy).into());
            }
            return self.value(offset, &self.record).map(Some);
        }
        Ok(None)
    }

    fn value(&self, offset: u64, record: &StringRecord) -> Result<T> {
        let names = self.named.then_some(&self.first);
        record.deserialize(names).map_err(|error| {
            let problem = self.words(&error, record);
            let remedy = format!(
                "mend the record, or the fields of {} to what the columns hold",
                std::any::type_name::<T>()
            );
            self.rows.malformed(offset, problem, remedy).into()
        })
    }

    /// What is wrong, in which column, and what stands there.
    fn words(&self, error: &csv::Error, record: &StringRecord) -> String {
        let ErrorKind::Deserialize { err, .. } = error.kind() else {
            return error.to_string();
        };
        let Some(field) = err.field() else {
            return match self.named {
                true => {
                    let names: Vec<&str> = self.first.iter().collect();
                    format!("{} (the header has {})", err.kind(), shown(&names))
                }
                false => err.kind().to_string(),
            };
        };
        let name = usize::try_from(field).ok().and_then(|field| self.first.get(field));
        let found = usize::try_from(field).ok().and_then(|field| record.get(field));
        let found: String = found.unwrap_or_default().chars().take(FIELD_CHARS_SHOWN).collect();
        match name.filter(|_| self.named) {
            Some(name) => format!("column `{name}` has {found:?}: {}", err.kind()),
            None => format!("column {} has {found:?}: {}", field + 1, err.kind()),
        }
    }
}
