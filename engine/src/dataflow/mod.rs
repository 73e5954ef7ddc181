//! Running plans on timely workers. The only folder that imports timely and differential.

pub mod room;
pub mod parcel;
pub mod workers;
pub mod team;
pub mod inbox;
pub mod speculation;
pub mod job;
pub mod stage;
pub mod run;
pub mod round;
pub mod vector;
pub mod exchange;
pub mod observer;
pub mod iterate;
pub mod live;
