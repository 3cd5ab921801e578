//! File sets: which files belong to one, their way into tar objects, and back into a folder.
//!
//! Place in the flow: beside postgres and duckdb; the engine compresses, uploads and fetches. *Invariants*: what a restore makes is said
//! by the list alone, and nothing is ever made, changed or followed outside the target folder. *Crash behaviour*: a file of a restore
//! has a hidden name until it is whole.

mod beneath;
mod error;
mod list;
mod pack;
mod rules;
mod target;
#[cfg(test)]
mod tests;
mod unpack;
mod usage;
mod walk;

pub use error::FilesError;
pub use list::{read_list, write_entry};
pub use pack::{Added, PackWriter, same_content};
pub use rules::Rules;
pub use target::{Occupied, Owners, Target};
pub use unpack::{ContentSink, Member, copy_content, members};
pub use usage::{UnseenWriters, Writers};
pub use walk::{Item, ItemKind, Problem, Root, Walked, meta_of, walk};

pub(crate) type Result<T> = std::result::Result<T, FilesError>;
