//! Running plans on timely workers. The only folder that imports timely and differential.

pub(crate) mod parcel_memory;
pub(crate) mod parcel;
pub(crate) mod workers;
pub(crate) mod team;
pub(crate) mod inbox;
pub(crate) mod speculation;
pub(crate) mod job;
pub(crate) mod stage;
pub(crate) mod run;
pub(crate) mod round;
pub(crate) mod vector;
pub(crate) mod exchange;
pub(crate) mod observer;
pub(crate) mod iterate;
pub(crate) mod live;
