"""What a power cut can leave of the spool and the ledger, image by image (see README.md)."""
