//! How old the parameters may be that a lane reads.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{EngineError, Result};

/// Most steps that a lane may lag behind: each takes a copy of the parameters, and an update for every lane.
pub const LAG_MAX: u64 = 64;

/// How old the parameters may be that a lane reads. Version `v` is what the steps before `v` have made. No lane waits
/// for another in step `t` if the versions that it may read are here. A worker that is slow and owns shards, or keeps a
/// second copy of optimizer state, holds versions up all the same: see `--parameter-workers`, of which there should be
/// two where optimizers have state.
///
/// Where the bits depend on time, steps that were seen may be taken again with others after a loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Staleness {
    /// Step `t` reads version `t` (bulk synchronous). The same bits whatever happens.
    #[default]
    Synchronous,
    /// Step `t` reads version `t - k`, and the version that the iteration began with in its first `k` steps. A lane may
    /// be `k` steps ahead of the slowest, and so need not wait for updates on their way. The same bits whatever
    /// happens; how training is cut into iterations shows in them.
    FixedLag(u64),
    /// Step `t` reads the newest version that is complete, which is `t - k` or newer: the condition of stale
    /// synchronous parallel (Ho et al., NIPS 2013). Which version is read depends on time, and so do the bits.
    Bounded(u64),
    /// A lane reads the newest complete version and waits for nobody. A step is made of as many updates as there are
    /// lanes, in the order in which they come, several of them from one lane if it is quick: K-batch-async with as many
    /// learners as K (Dutta et al., AISTATS 2018). All bits depend on time. Lane `l` calls its `n`-th update since the
    /// iteration began step `first_step + n`, whatever step that becomes a part of.
    Asynchronous,
}

impl Staleness {
    /// How many versions behind the newest lanes may read in place.
    pub fn lag(self) -> usize {
        match self {
            Self::Synchronous | Self::Asynchronous => 0,
            Self::FixedLag(lag) | Self::Bounded(lag) => lag as usize,
        }
    }

    /// Whether results are the same bits whatever happens.
    pub fn is_determinate(self) -> bool {
        matches!(self, Self::Synchronous | Self::FixedLag(_))
    }

    /// Whether steps are made of the updates that come, and not of one of each lane.
    pub fn is_asynchronous(self) -> bool {
        self == Self::Asynchronous
    }

    /// The oldest version that step `step` of an iteration from `first_step` on may read.
    pub fn oldest(self, step: u64, first_step: u64) -> u64 {
        match self {
            Self::Asynchronous => first_step,
            _ => step.saturating_sub(self.lag() as u64).max(first_step),
        }
    }

    /// The version that step `step` is to read when `newest` is the newest, if it can begin.
    pub fn version(self, step: u64, first_step: u64, newest: u64) -> Option<u64> {
        let oldest = self.oldest(step, first_step);
        let version = match self {
            Self::Synchronous | Self::FixedLag(_) => oldest,
            Self::Bounded(_) | Self::Asynchronous => newest,
        };
        (newest >= oldest).then_some(version)
    }

    /// How many updates of a lane may be on their way at once.
    pub(crate) fn updates(self) -> usize {
        if self.is_asynchronous() { 2 } else { self.lag() + 1 }
    }

    /// An error if lanes may lag behind by more than can be kept.
    ///
    /// # Errors
    /// If the lag is more than [`LAG_MAX`].
    pub fn check(self) -> Result<()> {
        match self {
            Self::FixedLag(lag) | Self::Bounded(lag) if lag > LAG_MAX => Err(EngineError::invalid(
                format!("lanes that lag behind by {lag} steps"),
                format!("let them lag by at most {LAG_MAX} steps, or use `Staleness::Asynchronous`"),
            )),
            _ => Ok(()),
        }
    }
}

/// `synchronous`, `fixed_lag:3`, `bounded:3` or `asynchronous`, as [`FromStr`] reads them.
impl fmt::Display for Staleness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Synchronous => formatter.write_str("synchronous"),
            Self::FixedLag(lag) => write!(formatter, "fixed_lag:{lag}"),
            Self::Bounded(lag) => write!(formatter, "bounded:{lag}"),
            Self::Asynchronous => formatter.write_str("asynchronous"),
        }
    }
}

impl FromStr for Staleness {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self> {
        let lag = |prefix| text.strip_prefix(prefix).and_then(|lag| lag.parse().ok());
        let staleness = match text {
            "synchronous" => Some(Self::Synchronous),
            "asynchronous" => Some(Self::Asynchronous),
            _ => lag("fixed_lag:")
                .map(Self::FixedLag)
                .or(lag("bounded:").map(Self::Bounded)),
        };
        let unknown = || {
            EngineError::invalid(
                format!("`{text}` as staleness"),
                "write `synchronous`, `fixed_lag:3`, `bounded:3` or `asynchronous`",
            )
        };
        let staleness = staleness.ok_or_else(unknown)?;
        staleness.check()?;
        Ok(staleness)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        use Staleness::{Asynchronous, Bounded, FixedLag, Synchronous};
        for staleness in [Synchronous, FixedLag(2), Bounded(64), Asynchronous] {
            assert_eq!(staleness.to_string().parse::<Staleness>().unwrap(), staleness);
        }
        for text in ["", "fixed", "bounded:", "bounded:-1", "bounded:65", "Synchronous"] {
            text.parse::<Staleness>().unwrap_err();
        }
    }

    #[test]
    fn each_mode_reads_what_its_name_says() {
        let read = |staleness: Staleness, step, newest| staleness.version(step, 10, newest);
        assert_eq!(read(Staleness::Synchronous, 12, 12), Some(12));
        assert_eq!(read(Staleness::Synchronous, 12, 11), None);
        let lag = Staleness::FixedLag(3);
        assert_eq!(read(lag, 10, 10), Some(10));
        assert_eq!(read(lag, 13, 10), Some(10));
        assert_eq!(read(lag, 14, 10), None);
        assert_eq!(read(lag, 14, 13), Some(11), "not the newest");
        let bounded = Staleness::Bounded(3);
        assert_eq!(read(bounded, 14, 10), None);
        assert_eq!(read(bounded, 14, 11), Some(11));
        assert_eq!(read(bounded, 14, 13), Some(13));
        assert_eq!(read(Staleness::Asynchronous, 90, 11), Some(11));
        assert_eq!(Staleness::FixedLag(0).lag(), Staleness::Synchronous.lag());
    }
}
