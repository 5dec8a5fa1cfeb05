"""Every byte two parties agree on, and every rule that needs no I/O, clock or randomness."""
