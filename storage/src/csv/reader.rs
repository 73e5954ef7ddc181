//! Records become values of a type.

use std::iter::FusedIterator;
use std::marker::PhantomData;

use csv::{DeserializeErrorKind, ErrorKind, StringRecord};
use serde::de::DeserializeOwned;

use super::CsvOptions;
use super::fields::{FieldReader, record_at};
use crate::bad_record::{BadRecord, Unread, with_bad_records};
use crate::columns::{shown, unseen};
use crate::error::Result;
use crate::object::ObjectError;
use crate::remote::Stores;
use crate::split::until_error;
use crate::text::raw_lines::AfterBad;
use crate::text::{TextOptions, TextSplit, text_split};

/// Read at once where only the first record is wanted, in bytes.
const HEADER_PIECE_BYTES: usize = 16 << 10;
/// Among so many records the first value is looked for.
const FIRST_RECORDS: usize = 100;

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
    let mut reader = CsvReader::open(stores, split, options, AfterBad::End)?;
    Ok(until_error(move || Ok(reader.read()?)))
}

/// The same, with the records that are no values of `T` in their places. What is wrong with a header stays an error, of
/// names that `T` needs and no column has as soon as a record would be one otherwise. Without a header a record must
/// have as many fields as the first value of `T` in the file, if that is among the first records.
///
/// # Errors
/// As [`read_csv`], of the first record only if it is a header.
pub fn try_read_csv<T: DeserializeOwned>(
    stores: &Stores,
    split: &TextSplit,
    options: &CsvOptions,
) -> Result<impl FusedIterator<Item = Result<Result<T, BadRecord>>> + use<T>> {
    let mut reader = CsvReader::open(stores, split, options, AfterBad::GoOn)?;
    Ok(with_bad_records(move || reader.read()))
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
fn has_columns<T: DeserializeOwned>(url: &str, offset: u64, names: &StringRecord) -> Result<(), ObjectError> {
    let names: Vec<&str> = names.iter().collect();
    match unseen::<T>(&names, "header", "CsvOptions::columns_may_be_missing") {
        Some((problem, remedy)) => Err(ObjectError::malformed(url, record_at(offset), problem, remedy)),
        None => Ok(()),
    }
}

/// Opens the start of the file that `split` is a part of, of which lines up to byte `end` are wanted at most.
fn open_start(
    stores: &Stores,
    split: &TextSplit,
    end: u64,
    options: &CsvOptions,
    after_bad: AfterBad,
) -> Result<FieldReader> {
    let text = TextOptions {
        piece_bytes: options.text().piece_bytes.min(HEADER_PIECE_BYTES),
        ..options.text()
    };
    let options = CsvOptions {
        text: Some(text),
        ..options.clone()
    };
    FieldReader::open(stores, &text_split(&split.object, 0..end), &options, after_bad)
}

/// The first record of a file without a header that is a value of `T`, and where it starts. It is looked for among few,
/// whatever the split, so that all of them find the same.
fn first_value<T: DeserializeOwned>(
    stores: &Stores,
    split: &TextSplit,
    options: &CsvOptions,
) -> Result<Option<(u64, StringRecord)>> {
    let mut rows = open_start(stores, split, split.object.bytes, options, AfterBad::GoOn)?;
    let mut record = StringRecord::new();
    for _ in 0..FIRST_RECORDS {
        match rows.next(&mut record) {
            Ok(Some(offset)) if record.deserialize::<T>(None).is_ok() => return Ok(Some((offset, record))),
            Ok(Some(_)) | Err(Unread::Record(_)) => {}
            Ok(None) => break,
            Err(Unread::All(error)) => return Err(error),
        }
    }
    Ok(None)
}

impl<T: DeserializeOwned> CsvReader<T> {
    fn open(stores: &Stores, split: &TextSplit, options: &CsvOptions, after_bad: AfterBad) -> Result<Self> {
        check(&split.object.url, options)?;
        let mut rows = FieldReader::open(stores, split, options, after_bad)?;
        let mut first = StringRecord::new();
        let is_start = split.compression.is_some() || split.range.start == 0;
        let may_be_bad = after_bad == AfterBad::GoOn && !options.header;
        let first_offset = match (may_be_bad, is_start) {
            (true, _) => first_value::<T>(stores, split, options)?.map(|(offset, record)| {
                first = record;
                offset
            }),
            (false, true) => rows.next(&mut first)?,
            (false, false) => open_start(stores, split, split.range.end, options, after_bad)?.next(&mut first)?,
        };
        if let Some(offset) = first_offset.filter(|_| options.header && !options.columns_may_be_missing) {
            has_columns::<T>(&split.object.url, offset, &first)?;
        }
        Ok(Self {
            rows,
            first_due: is_start && !options.header && !may_be_bad && first_offset.is_some(),
            first,
            first_offset,
            named: options.header,
            record: StringRecord::new(),
            value: PhantomData,
        })
    }

    fn read(&mut self) -> Result<Option<T>, Unread> {
        if std::mem::take(&mut self.first_due) {
            return self.value(&self.first).map(Some);
        }
        while let Some(offset) = self.rows.next(&mut self.record)? {
            // Behind blank lines the names may start in any split.
            if self.named && self.first_offset == Some(offset) {
                continue;
            }
            if self.first_offset.is_some() && self.record.len() != self.first.len() {
                let problem = format!(
                    "{} fields, but the first record of the file has {}",
                    self.record.len(),
                    self.first.len()
                );
                let remedy = "mend the record, or set the delimiter that the file uses";
                return Err(self.rows.unread(self.rows.malformed(problem, remedy)));
            }
            return self.value(&self.record).map(Some);
        }
        Ok(None)
    }

    fn value(&self, record: &StringRecord) -> Result<T, Unread> {
        let names = self.named.then_some(&self.first);
        record.deserialize(names).map_err(|error| {
            if let Some(wrong) = names.and_then(|names| self.doubled(&error, names, record)) {
                return Unread::All(wrong.into());
            }
            let problem = self.words(&error, record);
            let remedy = format!(
                "mend the record, or the fields of {} to what the columns hold",
                std::any::type_name::<T>()
            );
            let wrong = self.rows.malformed(problem, remedy);
            match self.named && is_of_names(&error, &self.first) {
                true => Unread::All(wrong.into()),
                false => self.rows.unread(wrong),
            }
        })
    }

    /// The error of a header that has a field of `T` twice, perhaps by two of its names (`#[serde(alias = "..")]`), if
    /// `error` comes of that. serde names the field only; which columns are meant is tried.
    fn doubled(&self, error: &csv::Error, names: &StringRecord, record: &StringRecord) -> Option<ObjectError> {
        let field = doubled_field(error)?;
        let is_doubled = |columns: &[usize]| {
            let of = |row: &StringRecord| columns.iter().filter_map(|column| row.get(*column)).collect();
            let (names, values): (StringRecord, StringRecord) = (of(names), of(record));
            let read = values.deserialize::<T>(Some(&names));
            read.err().is_some_and(|error| doubled_field(&error) == Some(field))
        };
        let columns: Vec<usize> = (0..names.len()).collect();
        let other = columns.partition_point(|last| !is_doubled(&columns[..=*last]));
        if is_doubled(&[other]) {
            // A format within the column has said so.
            return None;
        }
        let one = (0..other).find(|one| is_doubled(&[*one, other]))?;
        let (record, place) = (std::any::type_name::<T>(), record_at(self.first_offset?));
        let problem = format!(
            "columns {} and {}, `{}` and `{}`, are both field `{field}` of {record}",
            one + 1,
            other + 1,
            names.get(one)?,
            names.get(other)?
        );
        let remedy = "leave one of them out of the file, or take its name from the field (`#[serde(alias = \"..\")]`)";
        Some(ObjectError::malformed(self.rows.url(), place, problem, remedy))
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

/// The field of which serde's derive says that it comes twice.
fn doubled_field(error: &csv::Error) -> Option<&str> {
    let ErrorKind::Deserialize { err, .. } = error.kind() else {
        return None;
    };
    match err.kind() {
        DeserializeErrorKind::Message(words) => words.strip_prefix("duplicate field `")?.strip_suffix('`'),
        _ => None,
    }
}

/// Whether an error is one that every record would be, by the names of the columns: what serde's derive says of a field
/// that none of them has, or of one that the type refuses.
fn is_of_names(error: &csv::Error, names: &StringRecord) -> bool {
    let ErrorKind::Deserialize { err, .. } = error.kind() else {
        return false;
    };
    let DeserializeErrorKind::Message(words) = err.kind() else {
        return false;
    };
    let name_after = |start: &str| words.strip_prefix(start).and_then(|rest| rest.split_once('`'));
    let count = |name: &str| names.iter().filter(|column| *column == name).count();
    // A format within a field says more behind the name, as where in the field it is.
    let is_missing = name_after("missing field `").is_some_and(|(name, rest)| rest.is_empty() && count(name) == 0);
    let is_refused = name_after("unknown field `").is_some_and(|(name, _)| count(name) > 0);
    err.field().is_none() && (is_missing || is_refused)
}
