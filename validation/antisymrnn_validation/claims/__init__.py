"""Whether the paper's claims hold: the ledger and the checks behind it."""
