"""The front-end's side of the way to the ledger: batches up, receipts and lists down (docs/protocol.md §11)."""
