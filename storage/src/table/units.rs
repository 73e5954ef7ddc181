//! What the numbers of dates and times mean, which is the same in all files that are read as one.
//!
//! Such a value becomes the number that the file holds. Files of several programs hold days, milliseconds, microseconds
//! or nanoseconds under one name, which no record would show.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use arrow_schema::{DataType, Field, Schema, TimeUnit};

use crate::object::{ObjectError, shown};

/// What each column holds of those that have been seen, values within others by their path, and the first file that has
/// it.
#[derive(Default)]
pub(crate) struct Units(BTreeMap<String, (DataType, String)>);

impl Units {
    /// An error if a `wanted` column of the file holds numbers that mean something else than those of a file before. No
    /// names are all columns.
    pub(crate) fn check(&mut self, url: &str, schema: &Schema, wanted: Option<&[String]>) -> Result<(), ObjectError> {
        let is_wanted = |field: &Field| wanted.is_none_or(|wanted| wanted.contains(field.name()));
        let mut fields = schema.fields().iter().filter(|field| is_wanted(field));
        fields.try_for_each(|field| self.check_value(url, field.name(), field.data_type()))
    }

    fn check_value(&mut self, url: &str, path: &str, data_type: &DataType) -> Result<(), ObjectError> {
        match data_type {
            DataType::Struct(fields) => fields
                .iter()
                .try_for_each(|field| self.check_value(url, &format!("{path}.{}", field.name()), field.data_type())),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                self.check_value(url, &format!("{path}[]"), item.data_type())
            }
            // Writers call what is in it by several names.
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) => fields
                    .iter()
                    .zip(["key", "value"])
                    .try_for_each(|(field, name)| self.check_value(url, &format!("{path}.{name}"), field.data_type())),
                _ => Ok(()),
            },
            DataType::Dictionary(_, values) => self.check_value(url, path, values),
            other => match meaning(other) {
                Some(meaning) => self.check_meaning(url, path, meaning),
                None => Ok(()),
            },
        }
    }

    fn check_meaning(&mut self, url: &str, path: &str, here: DataType) -> Result<(), ObjectError> {
        let (before, first) = match self.0.entry(path.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert((here, url.to_owned()));
                return Ok(());
            }
            Entry::Occupied(entry) if entry.get().0 == here => return Ok(()),
            Entry::Occupied(entry) => entry.remove(),
        };
        let problem = format!(
            "it holds {} here, and {} in {}",
            in_words(&here),
            in_words(&before),
            shown(&first)
        );
        let remedy = "read the files of each kind as a dataset of their own and map them to one unit, or name the columns that are \
                      wanted in the options without this one";
        Err(ObjectError::malformed(url, format!("column `{path}`"), problem, remedy))
    }
}

/// What whole numbers are that can be read of values of a type. A time zone changes none of them.
fn meaning(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(unit, _) => Some(DataType::Timestamp(*unit, None)),
        other if other.is_temporal() => Some(other.clone()),
        other if other.is_integer() => Some(DataType::Int64),
        _ => None,
    }
}

fn in_words(meaning: &DataType) -> String {
    let unit = |unit: &TimeUnit| match unit {
        TimeUnit::Second => "seconds",
        TimeUnit::Millisecond => "milliseconds",
        TimeUnit::Microsecond => "microseconds",
        TimeUnit::Nanosecond => "nanoseconds",
    };
    match meaning {
        DataType::Timestamp(since, _) => format!("times in {}", unit(since)),
        DataType::Time32(since) | DataType::Time64(since) => format!("times of day in {}", unit(since)),
        DataType::Duration(length) => format!("durations in {}", unit(length)),
        DataType::Date32 => "dates in days".to_owned(),
        DataType::Date64 => "dates in milliseconds".to_owned(),
        DataType::Int64 => "plain numbers".to_owned(),
        other => format!("values of the type {other}"),
    }
}
