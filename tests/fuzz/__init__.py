"""Mutated bytes on every decoder, and hostile sequences on every state machine: see README.md."""
