"""Every bound of OSDP with its reason."""

from __future__ import annotations

from typing import Final

PACKET_BYTES_MAX: Final = 1440
"""Of the standard; SOM to check, without the mark byte."""
PACKET_BYTES_DEFAULT: Final = 128
"""What every reader takes before it has said more."""
ADDRESS_MAX: Final = 0x7E
BROADCAST: Final = 0x7F
"""Answered by whichever reader hears it: for a line with a single reader."""
BAUDS: Final = (9600, 19200, 38400, 57600, 115200, 230400)

CHARACTER_GAP_MS: Final = 20
"""Silence inside a packet after which its end will not come."""
REPLY_MS_MAX: Final = 200
"""A reader may take this long to answer; waited for in full where nobody else waits for the line."""
REPLY_MS_SHARED: Final = 20
"""Waited for while neighbours are live: real readers answer in 3 ms, and a mute one must not cost its neighbours more.
With eight neighbours at 115200 baud the gap between two polls of one of them stays below 60 ms. A reader whose answers
come later is noticed by them, and waited for longer."""
OFFLINE_MS: Final = 8_000
"""Silence after which both ends forget the session (spec 2.2, 5.7)."""
BUSY_PAUSE_MS: Final = 20
"""Before a command is repeated to a reader that said BUSY."""
DEAD_PROBE_MS: Final = 5_000
"""Between two probes of one dead reader: how soon it is noticed to be back."""
DEAD_SPACING_MS: Final = 400
"""Between two probes of any dead readers: with REPLY_MS_SHARED a fifteenth of the line, however many are dead."""
SILENT_PAUSE_MS: Final = 250
"""Between two repetitions once the first ones were not answered either, until the reader is offline."""
QUICK_RETRIES_MAX: Final = 3
"""Repetitions in consecutive rounds: noise passes in less."""
COMMANDS_MAX: Final = 32
"""Queued for one reader; more means that nobody looks at what becomes of them."""
READERS_MAX: Final = ADDRESS_MAX + 1
COMSET_TRIAL_MS: Final = 1_500
"""How long each of the old and new settings is tried before the other one, after COMSET."""
COMSET_MS_MAX: Final = 30_000
"""After that the old settings stand and the reader is offline."""
FILE_BYTES_MAX: Final = 16 << 20
"""Firmware of readers has a few hundred KiB; the field itself allows 4 GiB."""
FILE_WAIT_MS_MAX: Final = 60_000
"""A reader may delay a fragment by its 16 bit field; more in a row without progress ends the transfer."""
EVENTS_MAX: Final = 64
"""Waiting in a simulated reader; a real one keeps a few."""
KEY_BYTES: Final = 16
