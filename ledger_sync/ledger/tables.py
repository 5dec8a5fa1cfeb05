"""The ledger's tables, as SQL (docs/ledger.md, "Tables").

Evidence, which nothing recomputes, is what came in: `evidence` (packed rows, under the batch digests, the chain and
the heads file) and `operations` (what people did, under a chain of their own). Every other table follows from these
two, so `verify` rebuilds them and compares column by column (R26).

Rowid tables with a UNIQUE index: 310k inserts a second, against 105k WITHOUT ROWID (PERFORMANCE.md).
"""

from __future__ import annotations

from typing import Final

_EVIDENCE: Final = """
CREATE TABLE operations (
    operation INTEGER PRIMARY KEY, after_position INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    operator TEXT NOT NULL, verb TEXT NOT NULL, arguments TEXT NOT NULL, hash BLOB NOT NULL
) STRICT;
"""
BATCHES: Final = """
CREATE TABLE batches (
    position INTEGER PRIMARY KEY, generation INTEGER NOT NULL, posted_ms INTEGER NOT NULL,
    frontend INTEGER NOT NULL, spool BLOB NOT NULL, first_row INTEGER NOT NULL, last_row INTEGER NOT NULL,
    digest BLOB NOT NULL, results BLOB NOT NULL, chain BLOB NOT NULL,
    posted INTEGER NOT NULL, duplicates INTEGER NOT NULL, quarantined INTEGER NOT NULL, sum_cents INTEGER NOT NULL,
    receipt BLOB NOT NULL,
    UNIQUE (frontend, spool, first_row, last_row, digest)
) STRICT;
"""
_ROWS: Final = """
CREATE TABLE evidence (
    evidence INTEGER PRIMARY KEY, position INTEGER NOT NULL, row_id INTEGER NOT NULL,
    digest BLOB NOT NULL, packed BLOB NOT NULL,
    UNIQUE (position, row_id)
) STRICT;
CREATE TABLE generations (
    generation INTEGER PRIMARY KEY, position INTEGER NOT NULL, at_ms INTEGER NOT NULL
) STRICT;
"""
_REGISTERS: Final = """
CREATE TABLE terminals (
    id INTEGER PRIMARY KEY, terminal INTEGER NOT NULL, epoch INTEGER NOT NULL,
    class INTEGER NOT NULL, kind INTEGER NOT NULL, merchant INTEGER NOT NULL, proof_suite INTEGER NOT NULL,
    enrolment BLOB NOT NULL, closed_ms INTEGER,
    highest INTEGER NOT NULL DEFAULT 0, next_known INTEGER NOT NULL DEFAULT 1,
    completed_to INTEGER NOT NULL DEFAULT 0, quarantined_to INTEGER NOT NULL DEFAULT 0,
    UNIQUE (terminal, epoch)
) STRICT;
CREATE TABLE cards (
    number INTEGER PRIMARY KEY, status TEXT NOT NULL CHECK (status IN ('active', 'lost', 'cancelled', 'unknown')),
    status_ms INTEGER NOT NULL, uid BLOB, kind INTEGER, key_version INTEGER, card_group INTEGER,
    opening_cents INTEGER NOT NULL, mirror_cents INTEGER NOT NULL,
    top_counter INTEGER NOT NULL, top_balance_cents INTEGER
) STRICT;
CREATE TABLE list_versions (
    version INTEGER PRIMARY KEY, kind INTEGER NOT NULL, generation INTEGER NOT NULL, counter INTEGER NOT NULL,
    head BLOB NOT NULL, base_generation INTEGER NOT NULL, base_counter INTEGER NOT NULL,
    delta BLOB NOT NULL, content BLOB,
    UNIQUE (kind, generation, counter)
) STRICT;
"""
_BOOKS: Final = """
CREATE TABLE accounts (
    account INTEGER PRIMARY KEY, balance_cents INTEGER NOT NULL
) STRICT;
CREATE TABLE entries (
    entry INTEGER PRIMARY KEY, position INTEGER, operation INTEGER, posting INTEGER,
    account INTEGER NOT NULL, booking_day INTEGER NOT NULL, amount_cents INTEGER NOT NULL,
    CHECK ((position IS NULL) <> (operation IS NULL))
) STRICT;
CREATE TABLE postings (
    posting INTEGER PRIMARY KEY,
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, seal BLOB NOT NULL,
    type INTEGER NOT NULL, result INTEGER NOT NULL, card INTEGER, counter INTEGER,
    amount_cents INTEGER NOT NULL, balance_cents INTEGER, merchant INTEGER,
    running_count INTEGER NOT NULL, running_sum_cents INTEGER NOT NULL,
    trade_ms INTEGER NOT NULL, trade_day INTEGER NOT NULL, booking_day INTEGER NOT NULL,
    position INTEGER NOT NULL, row_id INTEGER NOT NULL, record_index INTEGER NOT NULL,
    UNIQUE (terminal, epoch, sequence, seal)
) STRICT;
CREATE INDEX postings_by_proof ON postings (card, counter) WHERE counter IS NOT NULL;
CREATE TABLE forks (
    fork INTEGER PRIMARY KEY, terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    seal BLOB NOT NULL, result INTEGER NOT NULL, amount_cents INTEGER NOT NULL,
    position INTEGER NOT NULL, row_id INTEGER NOT NULL, record_index INTEGER NOT NULL,
    UNIQUE (terminal, epoch, sequence, seal)
) STRICT;
CREATE TABLE quarantine (
    item INTEGER PRIMARY KEY, terminal INTEGER NOT NULL, epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL, last_sequence INTEGER NOT NULL, type INTEGER, result INTEGER NOT NULL,
    reason TEXT NOT NULL, amount_cents INTEGER, merchant INTEGER, trade_ms INTEGER NOT NULL,
    digest BLOB NOT NULL, raw BLOB NOT NULL,
    position INTEGER NOT NULL, row_id INTEGER NOT NULL, record_index INTEGER NOT NULL, resolved_position INTEGER,
    UNIQUE (terminal, epoch, sequence, digest)
) STRICT;
CREATE TABLE baselines (
    baseline INTEGER PRIMARY KEY, position INTEGER NOT NULL, row_id INTEGER NOT NULL,
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, oldest INTEGER NOT NULL,
    first_unacknowledged INTEGER NOT NULL, next INTEGER NOT NULL, boot INTEGER NOT NULL, received_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE tombstones (
    tombstone INTEGER PRIMARY KEY, position INTEGER NOT NULL, row_id INTEGER NOT NULL,
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    reason INTEGER NOT NULL, received_ms INTEGER NOT NULL
) STRICT;
"""
META: Final = """
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    site INTEGER NOT NULL, generation INTEGER NOT NULL, currency INTEGER NOT NULL, first_open_day INTEGER NOT NULL,
    rules INTEGER NOT NULL, unproven_limit_cents INTEGER NOT NULL
) STRICT;
"""
LOAD_ORDERS: Final = """
CREATE TABLE load_orders (
    load_order INTEGER PRIMARY KEY, card INTEGER NOT NULL, serial INTEGER NOT NULL, amount_cents INTEGER NOT NULL,
    ordered_ms INTEGER NOT NULL, operation INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('in_flight', 'executed', 'not_executed')),
    station INTEGER NOT NULL, executed_by INTEGER, refused_by INTEGER,
    UNIQUE (card, serial)
) STRICT;
"""
SUSPENSE: Final = """
CREATE TABLE suspense (
    posting INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('grey', 'unproven', 'over_limit', 'doubt')),
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    card INTEGER NOT NULL, counter_hint INTEGER NOT NULL, amount_cents INTEGER NOT NULL, merchant INTEGER NOT NULL,
    trade_ms INTEGER NOT NULL, resolved_position INTEGER, resolved_by INTEGER, type INTEGER NOT NULL
) STRICT;
"""
COMPLETIONS: Final = """
CREATE TABLE completions (
    posting INTEGER PRIMARY KEY,
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    card INTEGER NOT NULL, counter INTEGER NOT NULL, amount_cents INTEGER NOT NULL, merchant INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('resolved', 'posted', 'nothing new')), record INTEGER,
    type INTEGER NOT NULL, reference INTEGER NOT NULL
) STRICT;
CREATE INDEX completions_by_identity ON completions (terminal, epoch, sequence);
"""
DECISIONS: Final = """
CREATE TABLE decisions (
    decision INTEGER PRIMARY KEY, subject TEXT NOT NULL CHECK (subject IN ('suspense', 'quarantine', 'load')),
    item INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('spent', 'not spent', 'retry', 'reject', 'executed', 'not executed')),
    state TEXT NOT NULL CHECK (state IN ('proposed', 'withdrawn', 'confirmed', 'lapsed', 'reversed')),
    reason TEXT NOT NULL, proposed_operation INTEGER NOT NULL, proposed_by TEXT NOT NULL, proposed_ms INTEGER NOT NULL,
    closed_operation INTEGER, closed_by TEXT, ended_by INTEGER
) STRICT;
CREATE UNIQUE INDEX decisions_in_force ON decisions (subject, item) WHERE state IN ('proposed', 'confirmed');
"""
CLAIMS: Final = """
CREATE TABLE claims (
    posting INTEGER PRIMARY KEY, type INTEGER NOT NULL,
    terminal INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    card INTEGER NOT NULL, counter INTEGER NOT NULL, reference INTEGER NOT NULL, load_order INTEGER NOT NULL,
    amount_cents INTEGER NOT NULL, merchant INTEGER NOT NULL, trade_ms INTEGER NOT NULL,
    is_met INTEGER NOT NULL CHECK (is_met IN (0, 1))
) STRICT;
CREATE INDEX claims_by_reference ON claims (card, reference);
CREATE TABLE unproven (
    posting INTEGER PRIMARY KEY,
    terminal INTEGER NOT NULL, trade_day INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    card INTEGER NOT NULL, counter INTEGER NOT NULL, amount_cents INTEGER NOT NULL, balance_cents INTEGER NOT NULL,
    merchant INTEGER NOT NULL, trade_ms INTEGER NOT NULL, is_over INTEGER NOT NULL CHECK (is_over IN (0, 1))
) STRICT;
CREATE INDEX unproven_by_day ON unproven (terminal, trade_day, epoch, sequence);
CREATE INDEX unproven_by_counter ON unproven (card, counter);
CREATE TABLE event_totals (
    total INTEGER PRIMARY KEY, trade_day INTEGER NOT NULL, type INTEGER NOT NULL, code INTEGER NOT NULL,
    records INTEGER NOT NULL, events INTEGER NOT NULL,
    UNIQUE (trade_day, type, code)
) STRICT;
"""
"""What proofs refer to, cards without proofs, and events: with version 3."""
TABLES: Final = (
    _EVIDENCE + BATCHES + _ROWS + META + _REGISTERS + LOAD_ORDERS + _BOOKS + SUSPENSE + COMPLETIONS + DECISIONS + CLAIMS
)

DERIVED_TABLES: Final = (
    ("meta", "one"),
    ("generations", "generation"),
    ("batches", "position"),
    ("terminals", "id"),
    ("cards", "number"),
    ("load_orders", "load_order"),
    ("list_versions", "version"),
    ("accounts", "account"),
    ("entries", "entry"),
    ("postings", "posting"),
    ("forks", "fork"),
    ("suspense", "posting"),
    ("completions", "posting"),
    ("quarantine", "item"),
    ("decisions", "decision"),
    ("claims", "posting"),
    ("unproven", "posting"),
    ("event_totals", "total"),
    ("baselines", "baseline"),
    ("tombstones", "tombstone"),
)
"""(table, its integer key): what `verify` rebuilds from evidence and operations."""
