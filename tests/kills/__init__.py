"""Real processes that are killed with SIGKILL at drawn moments, and totals that agree all the same.

    traps        an order (class, occurrence) and the process that carries it out on itself
    wires        Network, Executor and Files that count moments of handshakes, acknowledgements, batches, receipts
    disk         a SQLite VFS and connection hooks that count moments of transactions and checkpoints
    memory       flash chips and cards of the simulator that count moments of programs and debits
    frontend, ledger, simulator     entry points: what the product composes, on such ports
    schedule     the orders of a run, drawn from its seed
    processes    one life of one process, seen from outside
    site         starts, kills and restarts the three until every order is carried out, then drains
    verdict      what must be true afterwards

`python -m tests.kills --kills 100 --seed 7` is the long run, `make kills KILLS=100 SEED=7` the same.
"""
