/// A ledger in memory.
#[derive(Debug)]
pub struct MemoryLedger;
