"""Every byte two parties agree on, and every rule that needs no I/O, clock or randomness.

The bytes are docs/protocol.md's; README.md of this package lists the modules in reading order. Import modules, not
this package: it loads none of them.
"""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 1
"""Version nibble of every frame header (docs/protocol.md §3); another one is refused."""
