//! How much of a journal is taken: the name node counts along, so that what would find no room ends an action and not
//! the program.

use postcard::ser_flavors::Size;

use super::{HEADER_BYTES, LogEntry};
use crate::cluster::protocol::Answer;
use crate::error::EngineError;

/// Most that a journal may take beyond its limit.
const RESERVE_BYTES_MAX: u64 = 8 << 20;

/// What a journal takes, and what it may take. Beyond that lies a reserve, so that a program whose journal is full can
/// go on with actions that come to little, and those that find no room come to an error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JournalQuota {
    pub(super) bytes: u64,
    pub(super) bytes_max: u64,
    /// Whether nothing else is written.
    pub(super) answers_only: bool,
}

impl JournalQuota {
    /// Of a journal without a limit.
    pub(crate) const ENDLESS: Self = Self {
        bytes: 0,
        bytes_max: u64::MAX,
        answers_only: false,
    };

    /// Of a journal of which nothing is written yet.
    pub(crate) fn up_to(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            ..Self::ENDLESS
        }
    }

    /// Of a journal that is full, but for `left` bytes of what comes to little.
    #[cfg(test)]
    pub(crate) fn almost_full(left: u64) -> Self {
        let quota = Self::up_to(64 << 20);
        let bytes = quota.bytes_max + quota.reserve() / 2 - left;
        Self { bytes, ..quota }
    }

    /// Whether an entry is written.
    pub(super) fn is_written(&self, entry: &LogEntry) -> bool {
        !self.answers_only || matches!(entry, LogEntry::Answered { .. })
    }

    /// Whether there is room for an entry that takes `more` bytes. For one that is of a few bytes whatever is computed
    /// there is in any case: a program that is over can still say so.
    pub(super) fn has(&self, entry: &LogEntry, more: u64) -> bool {
        let reserve = self.reserve();
        let beyond = match entry {
            entry if entry.is_small() => return true,
            LogEntry::Answered {
                answer: Some(Answer::Failed(_)),
                ..
            } => reserve,
            _ if more <= reserve / 32 => reserve / 2,
            _ => 0,
        };
        self.bytes.saturating_add(more) <= self.bytes_max.saturating_add(beyond)
    }

    fn reserve(&self) -> u64 {
        (self.bytes_max / 8).min(RESERVE_BYTES_MAX)
    }

    /// What an entry takes. Of one that cannot be encoded, nothing: the journal has an error for it.
    fn bytes_of(&self, entry: &LogEntry) -> u64 {
        let length = postcard::serialize_with_flavor(entry, Size::default()).unwrap_or(0);
        match self.is_written(entry) {
            true => HEADER_BYTES + length as u64,
            false => 0,
        }
    }

    /// Counts an entry that is being written.
    pub(crate) fn take(&mut self, entry: &LogEntry) {
        self.bytes = self.bytes.saturating_add(self.bytes_of(entry));
    }

    /// The error of the action at `site` if there is no room for an entry and `beside` more bytes.
    pub(crate) fn refusal(&self, entry: &LogEntry, beside: u64, site: &str) -> Option<EngineError> {
        let more = self.bytes_of(entry).saturating_add(beside);
        (!self.has(entry, more)).then(|| EngineError::JournalFull {
            action: site.to_owned(),
            bytes: self.bytes,
            bytes_max: self.bytes_max,
            more,
        })
    }
}
