//! Running plans on timely workers. The only folder that imports timely.

pub mod parcel;
pub mod workers;
pub mod job;
pub mod stage;
pub mod run;
pub mod iterate;
