//! Sources: what the cluster's objects are read from, and what stands for those that cannot be read.
//!
//! text -> documents (`document`) -> JSON values -> typed objects (`typed`) -> the model (`convert`) -> what is enforced
//! (`store`). Everything but reading and watching is pure.

mod addresses;
mod closed;
pub mod cluster;
pub mod convert;
mod document;
mod fault;
mod interpret;
mod json;
mod object;
mod read;
mod settle;
mod slim;
mod sort;
mod stamp;
mod store;
mod typed;
mod watch;
mod yaml;

pub use fault::{Fault, Faults, Field, Problem};
pub use object::{Found, Kind, Object, ObjectKey, StandIn};
pub use read::{FileRead, FolderRead, read_folder, read_text};
pub use store::{Store, Update};
pub use watch::FolderWatch;

#[cfg(test)]
mod tests;
