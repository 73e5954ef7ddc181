//! Files from one process or from many, which appear whole or not at all.

use std::path::absolute;
use std::sync::Arc;

use bytes::Bytes;
use distdl_storage::Record;
use distdl_storage::remote::{Existing, FolderWriter, SUCCESS, SharedFolder};

use super::once::once;
use crate::batch::PartitionIter;
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};
use crate::lineage::Determinacy;

/// Files of one partition: for each the folder that it is to lie in, which is none if its name is empty, and what is
/// known of it.
type Files<F> = Vec<(String, F)>;

impl<T: Record> Dataset<T> {
    /// Writes the files that `encode` makes of each partition, each under the name of its part with `ending`.
    pub(super) fn publish(
        &self,
        url: &str,
        existing: Existing,
        ending: &str,
        encode: impl Fn(PartitionIter<T>) -> Result<Files<Vec<u8>>> + Send + Sync + 'static,
    ) -> Result<()> {
        match self.context().member() {
            Some(_) => self.publish_together(url, existing, ending, encode),
            None => self.publish_alone(url, existing, ending, encode),
        }
    }

    fn publish_alone(
        &self,
        url: &str,
        existing: Existing,
        ending: &str,
        encode: impl Fn(PartitionIter<T>) -> Result<Files<Vec<u8>>> + Send + Sync + 'static,
    ) -> Result<()> {
        let folder = Arc::new(self.context().stores().write_folder(url, existing)?);
        // No handle: a thread that asks the job to stop holds it, and all that its closures have, a little longer.
        let (parts, partitions, ending) = (Arc::downgrade(&folder), self.partitions(), ending.to_owned());
        let write = move |folder: &FolderWriter, partition, files: Files<Vec<u8>>| -> Result<u64> {
            let part = part_name(partition, partitions, &ending);
            let count = files.len() as u64;
            for (within, bytes) in files {
                folder.write_part(&name_within(&within, &part), Bytes::from(bytes))?;
            }
            Ok(count)
        };
        let written = self.run_partitions(move |partition, records| {
            let files = encode(records)?;
            match parts.upgrade() {
                Some(folder) => write(&folder, partition, files),
                // The action is over.
                None => Ok(0),
            }
        })?;
        if written.iter().sum::<u64>() == 0 {
            folder.write_part(SUCCESS, Bytes::new())?;
        }
        match Arc::into_inner(folder) {
            Some(folder) => Ok(folder.commit()?),
            None => Err(EngineError::WorkersStopped {
                reason: format!("a task still writes to {url}"),
            }),
        }
    }

    /// Every step is an action of its own, so that a process that comes later knows what is over. The name comes first:
    /// whatever a dead process has begun can be found by it.
    fn publish_together(
        &self,
        url: &str,
        existing: Existing,
        ending: &str,
        encode: impl Fn(PartitionIter<T>) -> Result<Files<Vec<u8>>> + Send + Sync + 'static,
    ) -> Result<()> {
        let context = self.context();
        if existing == Existing::Replace {
            self.check_reads_no_part_of(url)?;
        }
        let name = once(context, || Ok(SharedFolder::draw_name()))?;
        let folder = Arc::new(context.stores().shared_folder(url, &name, existing)?);
        if folder.has_one_try() && self.determinacy() != Determinacy::Determinate {
            return Err(EngineError::invalid(
                format!("several processes save to {url} what is not the same when it is computed again"),
                "keep it first, as by `local_checkpoint`, or save to a folder of a file system",
            ));
        }
        let place = Arc::clone(&folder);
        let begun = once(context, move || Ok(place.begin()?));
        let has_begun = begun.is_ok();
        let published = begun.and_then(|()| self.publish_in(&folder, ending, encode));
        let place = Arc::clone(&folder);
        let _unlimited = context.without_limits();
        let removed = once(context, move || match has_begun {
            true => Ok(place.remove_unfinished()?),
            false => Ok(place.abandon()?),
        });
        if let Err(error) = removed {
            // What was asked for is decided, and that is what counts.
            tracing::warn!(url, "could not remove unfinished parts: {error}");
        }
        published
    }

    /// A process that is started again lists what it reads again: it would find what replaces it.
    fn check_reads_no_part_of(&self, url: &str) -> Result<()> {
        let local = |url: &str| absolute(url.strip_prefix("file://").unwrap_or(url)).ok();
        let folder = local(url);
        let lineage = self.context().lineage(self.id());
        for node in lineage.nodes() {
            let Some(reads) = &node.reads else { continue };
            let mut read = (0..node.partitions).flat_map(|partition| reads(partition));
            let part = read.find(|(object, _)| {
                local(&object.url)
                    .zip(folder.as_ref())
                    .is_some_and(|(part, folder)| part.starts_with(folder))
            });
            if let Some((object, _)) = part {
                return Err(EngineError::invalid(
                    format!("several processes replace {url}, and {} is read for that", object.url),
                    "save to another folder; a process that is started for a lost one reads its input again",
                ));
            }
        }
        Ok(())
    }

    fn publish_in(
        &self,
        folder: &Arc<SharedFolder>,
        ending: &str,
        encode: impl Fn(PartitionIter<T>) -> Result<Files<Vec<u8>>> + Send + Sync + 'static,
    ) -> Result<()> {
        let (place, partitions, ending) = (Arc::clone(folder), self.partitions(), ending.to_owned());
        let written: Vec<Files<String>> = self.run_partitions(move |partition, records| {
            let part = part_name(partition, partitions, &ending);
            let write = |(within, bytes): (String, Vec<u8>)| {
                let name = name_within(&within, &part);
                let written = place.write_part(&name, Bytes::from(bytes))?;
                Ok((name, written))
            };
            encode(records)?.into_iter().map(write).collect()
        })?;
        let mut parts = written.concat();
        if parts.is_empty() {
            // Without a file nobody could tell an earlier try of publishing from what others have put there.
            let place = Arc::clone(folder);
            let written = once(self.context(), move || Ok(place.write_part(SUCCESS, Bytes::new())?))?;
            parts.push((SUCCESS.to_owned(), written));
        }
        let place = Arc::clone(folder);
        once(self.context(), move || Ok(place.publish(&parts)?))
    }
}

fn name_within(folder: &str, part: &str) -> String {
    match folder {
        "" => part.to_owned(),
        _ => format!("{folder}/{part}"),
    }
}

/// By name parts are in the order of partitions, which is that of records when they are read again.
fn part_name(partition: usize, partitions: usize, ending: &str) -> String {
    let digits = partitions.saturating_sub(1).to_string().len().max(5);
    format!("part-{partition:0digits$}{ending}")
}

#[cfg(test)]
mod tests {
    use super::part_name;

    #[test]
    fn names_of_parts_are_in_the_order_of_partitions() {
        assert_eq!(part_name(7, 100_000, ".txt"), "part-00007.txt");
        assert_eq!(part_name(7, 100_001, ""), "part-000007");
        assert!(part_name(99_999, 100_001, "") < part_name(100_000, 100_001, ""));
    }
}
