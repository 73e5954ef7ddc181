//! The records of a live input: those that are committed, and changes that wait for a commit.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex};

use distdl_storage::Unpoisoned;

use super::LiveRecord;
use super::meter::Figures;
use crate::error::LiveError;

/// A multiset, and changes to it.
pub(crate) struct Contents<T> {
    name: String,
    /// What those count that may read it.
    figures: Arc<Figures>,
    records_max: usize,
    held: BTreeMap<T, u64>,
    /// Changes that are being committed.
    sealed: BTreeMap<T, i64>,
    /// Changes that wait.
    pending: BTreeMap<T, i64>,
    /// Records that will be there when all is committed, each counted once.
    expected: usize,
}

/// An input whose type of records only its handle knows.
pub(crate) trait Pending: Send + Sync {
    /// Begins to commit the changes that wait; returns how many records they change.
    fn seal(&self) -> usize;
    /// Makes them part of the contents.
    fn settle(&self);
    /// Lets them wait again.
    fn unseal(&self);
    /// Forgets the changes that wait.
    fn discard(&self);
}

impl<T: LiveRecord> Contents<T> {
    pub(crate) fn new(name: &str, figures: &Arc<Figures>, records_max: usize) -> Self {
        Self {
            name: name.to_owned(),
            figures: Arc::clone(figures),
            records_max,
            held: BTreeMap::new(),
            sealed: BTreeMap::new(),
            pending: BTreeMap::new(),
            expected: 0,
        }
    }

    /// Whether it is one of those that count with `figures`.
    pub(crate) fn is_of(&self, figures: &Arc<Figures>) -> bool {
        Arc::ptr_eq(&self.figures, figures)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The committed records, in order, with how often each is there.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&T, u64)> {
        self.held.iter().map(|(record, count)| (record, *count))
    }

    /// The changes that are being committed, in order of their records.
    pub(crate) fn sealed(&self) -> impl Iterator<Item = (&T, i64)> {
        self.sealed.iter().map(|(record, change)| (record, *change))
    }

    /// How often a record will be there when all is committed.
    fn expected(&self, record: &T) -> i128 {
        let changes = [&self.sealed, &self.pending]
            .into_iter()
            .filter_map(|changes| changes.get(record));
        let held = self.held.get(record).copied().unwrap_or(0);
        i128::from(held) + changes.map(|change| i128::from(*change)).sum::<i128>()
    }

    pub(crate) fn insert(&mut self, record: T) -> Result<(), LiveError> {
        if self.expected(&record) <= 0 {
            if self.expected >= self.records_max {
                return Err(LiveError::Full {
                    what: format!("live input \"{}\"", self.name),
                    records: self.expected as u64 + 1,
                    records_max: self.records_max as u64,
                    option: "input_records_max".to_owned(),
                });
            }
            self.expected += 1;
        }
        self.change(record, 1);
        Ok(())
    }

    pub(crate) fn retract(&mut self, record: T) -> Result<(), LiveError> {
        match self.expected(&record) {
            ..=0 => {
                return Err(LiveError::Absent {
                    input: self.name.clone(),
                    record: format!("{record:?}"),
                });
            }
            1 => self.expected -= 1,
            _ => {}
        }
        self.change(record, -1);
        Ok(())
    }

    fn change(&mut self, record: T, by: i64) {
        // Changes that cancel out are none.
        match self.pending.entry(record) {
            Entry::Occupied(entry) if *entry.get() == -by => {
                entry.remove();
            }
            Entry::Occupied(mut entry) => *entry.get_mut() += by,
            Entry::Vacant(entry) => {
                entry.insert(by);
            }
        }
    }

    fn discard(&mut self) {
        for (record, change) in std::mem::take(&mut self.pending) {
            let without = self.expected(&record);
            match (without > 0, without + i128::from(change) > 0) {
                (true, false) => self.expected += 1,
                (false, true) => self.expected -= 1,
                _ => {}
            }
        }
    }

    fn settle(&mut self) {
        for (record, change) in std::mem::take(&mut self.sealed) {
            add(&mut self.held, record, change);
        }
    }

    fn unseal(&mut self) {
        for (record, change) in std::mem::take(&mut self.sealed) {
            self.change(record, change);
        }
    }
}

/// Changes how often a record is there. Returns whether it was there often enough; if not, nothing changes.
pub(crate) fn add<T: Ord>(counts: &mut BTreeMap<T, u64>, record: T, change: i64) -> bool {
    match counts.entry(record) {
        Entry::Occupied(mut entry) => match entry.get().checked_add_signed(change) {
            Some(0) => {
                entry.remove();
                true
            }
            Some(count) => {
                entry.insert(count);
                true
            }
            None => false,
        },
        Entry::Vacant(entry) => match u64::try_from(change) {
            Ok(0) => true,
            Ok(count) => {
                entry.insert(count);
                true
            }
            Err(_) => false,
        },
    }
}

impl<T: LiveRecord> Pending for Mutex<Contents<T>> {
    fn seal(&self) -> usize {
        let contents = &mut *self.lock().unpoisoned();
        contents.unseal();
        std::mem::swap(&mut contents.sealed, &mut contents.pending);
        contents.sealed.len()
    }

    fn settle(&self) {
        self.lock().unpoisoned().settle();
    }

    fn unseal(&self) {
        self.lock().unpoisoned().unseal();
    }

    fn discard(&self) {
        self.lock().unpoisoned().discard();
    }
}
