"""The states of a panel's session with one reader, and the only ways between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class LinkState(Enum):
    OFFLINE = "offline"
    ASKING = "asking for capabilities"
    CHALLENGING = "challenging"
    PROVING = "proving"
    ONLINE = "online"
    DISABLED = "disabled"


class LinkStep(Enum):
    IDENTIFIED = "PDID"
    CAPABLE = "PDCAP, a secure channel is owed"
    CAPABLE_IN_CLEAR = "PDCAP, in clear by configuration"
    PROVED = "CCRYPT, right"
    ESTABLISHED = "RMAC_I, right"
    LOST = "session lost, handshake again"
    GIVEN_UP = "silent, refused, or moved"
    DISABLE = "disable"
    ENABLE = "enable"


_S, _T = LinkState, LinkStep
TRANSITIONS: Final[Mapping[tuple[LinkState, LinkStep], LinkState]] = {
    (_S.OFFLINE, _T.IDENTIFIED): _S.ASKING,
    (_S.ASKING, _T.CAPABLE): _S.CHALLENGING,
    (_S.ASKING, _T.CAPABLE_IN_CLEAR): _S.ONLINE,
    (_S.CHALLENGING, _T.PROVED): _S.PROVING,
    (_S.PROVING, _T.ESTABLISHED): _S.ONLINE,
    (_S.ONLINE, _T.LOST): _S.CHALLENGING,
    (_S.PROVING, _T.LOST): _S.CHALLENGING,
    (_S.CHALLENGING, _T.LOST): _S.CHALLENGING,
    **{(state, _T.GIVEN_UP): _S.OFFLINE for state in _S if state is not _S.DISABLED},
    **{(state, _T.DISABLE): _S.DISABLED for state in _S},
    (_S.DISABLED, _T.ENABLE): _S.OFFLINE,
}
