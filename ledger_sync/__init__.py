"""The way to the ledger: the spool keeps records, the link carries them, the ledger posts them."""
