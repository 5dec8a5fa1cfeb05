"""The ledger: posting, books, versions, receipts, reports; its own process and keystore (docs/ledger.md)."""
