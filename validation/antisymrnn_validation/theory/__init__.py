"""What is true: oracles independent of the code, and the ledger of the paper's claims."""
