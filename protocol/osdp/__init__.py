"""OSDP 2.2 (IEC 60839-11-5): packets, messages, secure channel, and the pure cores of both ends of the line.

What is implemented, and which test holds it: docs/osdp.md. Both cores meet a line in four calls:
`receive(data, now_ms)`, `take_output()`, `next_deadline_ms()`, `tick(now_ms)`.
They know no port, no clock and no randomness.
"""
