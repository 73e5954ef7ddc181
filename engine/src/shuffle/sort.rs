//! Sorting a partition: in memory, and in sorted runs on disk where memory has no room for all of it.

use std::cmp::Ordering;

use distdl_storage::Record;

use crate::batch::{AnyStream, TaskResult, typed_batches};
use crate::runs::{Run, fallible_stream, merged, spill};
use crate::task::TaskContext;
use crate::working::{Working, bytes_of};

/// The records of a stream in the order of `compare`; equal ones keep theirs.
pub(crate) fn sorted<T: Record>(
    context: &TaskContext,
    stream: AnyStream,
    compare: impl Fn(&T, &T) -> Ordering + Clone + 'static,
) -> TaskResult<AnyStream> {
    let (mut working, mut records, mut runs) = (Working::of(context), Vec::new(), Vec::new());
    let mut file = None;
    for batch in typed_batches::<T>(stream) {
        let batch = batch?;
        // A stable sort moves half of the records aside.
        let bytes = bytes_of(batch.as_slice()) + size_of_val(batch.as_slice()) as u64 / 2;
        if !working.grow(bytes) && !records.is_empty() {
            let file = match &file {
                Some(file) => file,
                None => &*file.insert(spill(context)?),
            };
            records.sort_by(&compare);
            runs.push(Run::write(context, file, records.drain(..).map(Ok))?);
            working.set(0);
            // The records of this batch are here already, whether there is room for them or not.
            let _ = working.grow(bytes);
        }
        batch.for_each(|record| records.push(record));
    }
    drop(file);
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
