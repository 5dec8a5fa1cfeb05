"""An independent second implementation of docs/protocol.md, written from that page alone.

It shares no line with the product and does not import it: bytes are described with `construct`, cryptography comes from
pycryptodome, the key derivation is written by hand. What it makes is stored in tests/vectors; where the product and
these files differ, one of them, or the page, is wrong.

Reading order: `fields`, `primitives`, `sm4`, `keys` (section 2), `frames` (3), `handshake` (4), `sealed` (5),
`messages` (6), `records` (7), `ranges` (8), `trade_time` (9), `lists` (10), `rows` and `link` (11), `card` (12),
`keystore` (13); then `reference`, `session`, `vectors_*` and `make_vectors` for the files, `example_layouts` and
`examples` for the page's section 15.

Every build takes a mapping with the page's words in snake_case, bytes as lower-case hex; every parse returns one.
"""
