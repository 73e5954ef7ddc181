//! Records that differential-dataflow keeps up to date, on one thread of their own.
//!
//! A view is one dataflow of a timely worker that has no peers: every process of a cluster keeps all of it. The
//! engine's own workers and generations know nothing of it.

pub(crate) mod meter;
pub(crate) mod contents;
pub(crate) mod view_contents;
mod totals;
pub(crate) mod row;
pub(crate) mod records;
pub(crate) mod view_dataflow;
pub(crate) mod thread;

pub use records::{LiveRecords, LiveScope};
pub use totals::Totals;

use std::fmt::Debug;
use std::hash::Hash;

use differential_dataflow::dynamic::pointstamp::PointStamp;
use distdl_storage::Record;
use timely::order::Product;

/// What live records may be: small values with an order, such as names, numbers and tuples of them. All of them are in
/// memory, in every process. Floats have no order: the crate `ordered-float`, with its feature `serde`, has types around
/// them that do.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no live record",
    label = "cannot be a live record",
    note = "derive `Clone`, `Debug`, `PartialEq`, `Eq`, `PartialOrd`, `Ord`, `Hash`, `serde::Serialize` and `serde::Deserialize` for it; of floating-point numbers take `ordered_float::OrderedFloat`, with the feature `serde` of that crate, or integers, such as a number of hundredths"
)]
pub trait LiveRecord: Record + Ord + Hash + Debug {}

#[diagnostic::do_not_recommend]
impl<T: Record + Ord + Hash + Debug> LiveRecord for T {}

/// Commits on the outside; inside, the round of each loop around an operator. One type for any depth of loops, so that
/// a closure over live records need not name it.
pub(crate) type Time = Product<u64, PointStamp<u64>>;
