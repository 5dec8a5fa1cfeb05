"""Card layouts and dialogues: the AES CPU card, seen from both sides (docs/protocol.md §12)."""
