/// A ledger in a SQLite database.
#[derive(Debug)]
pub struct SqliteLedger;
