//! Cold partitions: which there are, what stands in their way, how they leave their table, and how they come back.
//!
//! Place in the flow: the archive jobs of the engine. *Ordering*: a lock that keeps writers away, in *later* statements the look whether
//! the rows are still those that were exported, then the ledger's row and the change of the catalogs, one commit. *Invariants*: all
//! that moves a partition is one transaction with its row in `dozo.ledger`; nothing is ever dropped with CASCADE. *Crash behaviour*:
//! before the commit nothing has happened; what `DETACH … CONCURRENTLY` leaves is announced in the ledger before it begins.

mod detach;
mod ledger;
mod preflight;
mod tree;

pub use detach::{
    Attach, Check, Holder, Leave, Place, Quarantined, Removal, attach_again, backend_pid, cancel_backend, checks_of,
    checks_of_name, columns_now, concurrently, drop_quarantined, forget_if_attached, holders, is_pending, leave, own_keys_of,
    place_of, tables_of,
};
pub use ledger::{
    Along, LEDGER_SCHEMA, LedgerDetails, LedgerRow, LedgerState, Moved, QUARANTINE, announce, forget_announced, ledger_rows,
    ledger_says, prepare_ledger, try_run_lock,
};
pub use preflight::{
    Grants, Obstacles, Referring, bytes_of, data_folder, default_of, is_alone, obstacles, oid_of, referring_rows,
    restore_is_open, rows_outside, rows_where,
};
pub use tree::{KeyKind, Partition, Tree, like_sibling, partman_manages, tree};
