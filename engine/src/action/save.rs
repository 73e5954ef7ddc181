//! Text files from one process or from many, which appear whole or not at all.

use std::fmt::{Display, Write};
use std::sync::Arc;

use bytes::Bytes;
use distdl_storage::Record;
use distdl_storage::remote::SharedFolder;

use crate::batch::PartitionIter;
use crate::context::{Answered, Context};
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};

impl<T: Record + Display> Dataset<T> {
    /// Writes each partition as a text file, `part-00000` and so on, a line a record, into a new folder or object
    /// prefix `url`. All of it appears at once, when every part is complete and synced, or not at all.
    ///
    /// Of several processes each writes the parts that it computes, and one publishes them: `url` must be a folder that
    /// all of them see, on a file system that knows hard links. Who dies half way leaves nothing behind once the action is
    /// over. No shuffle of its own; a partition's text is held in memory while it is written.
    ///
    /// # Errors
    /// If `url` exists or cannot be written; otherwise as any action.
    pub fn save_as_text_file(&self, url: &str) -> Result<()> {
        match self.context().member() {
            Some(_) => self.save_together(url),
            None => self.save_alone(url),
        }
    }

    fn save_alone(&self, url: &str) -> Result<()> {
        let folder = Arc::new(self.context().stores().create_folder(url)?);
        let parts = Arc::clone(&folder);
        self.run_partitions(move |partition, records| {
            parts.write_part(&part_name(partition), Bytes::from(text_of(records)))?;
            Ok(())
        })?;
        // The job is over and has dropped its handle.
        match Arc::into_inner(folder) {
            Some(folder) => Ok(folder.commit()?),
            None => Err(EngineError::WorkersStopped {
                reason: format!("a task still writes to {url}"),
            }),
        }
    }

    /// Every step is an action of its own, so that a process that comes later knows what is over. The name comes first:
    /// whatever a dead process has begun can be found by it.
    fn save_together(&self, url: &str) -> Result<()> {
        let context = self.context();
        let name = once(context, || Ok(SharedFolder::draw_name()))?;
        let folder = Arc::new(context.stores().shared_folder(url, &name)?);
        let place = Arc::clone(&folder);
        once(context, move || Ok(place.begin()?))?;
        let published = self.publish_together(&folder);
        let place = Arc::clone(&folder);
        if let Err(error) = once(context, move || Ok(place.remove_unfinished()?)) {
            // What was asked for is decided, and that is what counts.
            tracing::warn!(url, "could not remove unfinished parts: {error}");
        }
        published
    }

    fn publish_together(&self, folder: &Arc<SharedFolder>) -> Result<()> {
        let place = Arc::clone(folder);
        let written = self.run_partitions(move |_, records| Ok(place.write_part(text_of(records).as_bytes())?))?;
        let parts: Vec<(String, String)> = (0..).map(part_name).zip(written).collect();
        let place = Arc::clone(folder);
        once(self.context(), move || Ok(place.publish(&parts)?))
    }
}

/// Runs `function` in one process for all; in another one if that dies before its answer is known.
fn once<R: Answered>(context: &Context, function: impl Fn() -> Result<R> + Send + Sync + 'static) -> Result<R> {
    let mut answers = context.range(0..1, 1).run_partitions(move |_, _| function())?;
    answers.pop().ok_or_else(|| EngineError::WorkersStopped {
        reason: "an action of one partition had no answer".into(),
    })
}

fn part_name(partition: usize) -> String {
    format!("part-{partition:05}")
}

fn text_of<T: Record + Display>(records: PartitionIter<T>) -> String {
    let mut text = String::new();
    for record in records {
        // Writing to a string cannot fail; a `Display` that does is the record's own affair.
        let _ = writeln!(text, "{record}");
    }
    text
}
