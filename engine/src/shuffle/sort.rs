//! Sorting a partition: in memory, and in sorted runs on disk where memory has no room for all of it.

use std::cmp::Ordering;

use distdl_storage::Record;

use super::runs::{Run, fallible_stream, merged, spill};
use crate::batch::{AnyStream, TaskResult, typed_batches};
use crate::task::TaskContext;
use crate::working::{Working, bytes_of};

/// What slots for records take in memory; a stable sort moves half of them aside.
fn bytes_of_slots<T>(slots: usize) -> u64 {
    slots as u64 * size_of::<T>() as u64 * 3 / 2
}

/// Records on their way into order, in a vector whose slots are counted whether they are taken or not.
struct Gathering<T> {
    working: Working,
    records: Vec<T>,
    /// What the records own beside their slots, in bytes.
    owned_bytes: u64,
}

impl<T: Record> Gathering<T> {
    /// Reserves memory for a batch; `false` if there is none. The vector doubles where that can be, else it grows by
    /// what there is room for.
    fn reserve(&mut self, batch: &[T]) -> bool {
        let (capacity, taken) = (self.records.capacity(), self.bytes(self.records.capacity()));
        let owned = bytes_of(batch) - size_of_val(batch) as u64;
        let missing = (self.records.len() + batch.len()).saturating_sub(capacity);
        let steps = match missing {
            0 => [0; 3],
            _ => [capacity, capacity / 4, 0].map(|step| missing.max(step)),
        };
        let working = &mut self.working;
        let room = steps.into_iter().find(|more| {
            working.set(taken);
            working.grow(owned + bytes_of_slots::<T>(*more))
        });
        // The records of a batch are here already, whether there is room for them or not.
        if room.is_some() || self.records.is_empty() {
            let slots = capacity + room.unwrap_or(missing);
            self.records.reserve_exact(slots - self.records.len());
            self.owned_bytes += owned;
        }
        room.is_some()
    }

    fn bytes(&self, slots: usize) -> u64 {
        self.owned_bytes + bytes_of_slots::<T>(slots)
    }
}

/// The records of a stream in the order of `compare`; equal ones keep theirs.
pub(crate) fn sorted<T: Record>(
    context: &TaskContext,
    stream: AnyStream,
    compare: impl Fn(&T, &T) -> Ordering + Clone + 'static,
) -> TaskResult<AnyStream> {
    let (mut runs, mut file) = (Vec::new(), None);
    let mut gathering = Gathering {
        working: Working::of(context),
        records: Vec::new(),
        owned_bytes: 0,
    };
    for batch in typed_batches::<T>(stream) {
        let batch = batch?;
        if !gathering.reserve(batch.as_slice()) && !gathering.records.is_empty() {
            let file = match &file {
                Some(file) => file,
                None => &*file.insert(spill(context)?),
            };
            gathering.records.sort_by(&compare);
            runs.push(Run::write(context, file, gathering.records.drain(..).map(Ok))?);
            gathering.owned_bytes = 0;
            let _ = gathering.reserve(batch.as_slice());
        }
        batch.for_each(|record| gathering.records.push(record));
    }
    drop(file);
    let Gathering {
        working, mut records, ..
    } = gathering;
    records.sort_by(&compare);
    let records = records.into_iter().inspect(move |_| {
        // Until the last of them is read, their memory is in use.
        let _in_use = &working;
    });
    let batch_records = context.resources.batch_records;
    if runs.is_empty() {
        return Ok(crate::batch::stream_of(records, batch_records));
    }
    Ok(fallible_stream(merged(context, runs, records, compare)?, batch_records))
}
