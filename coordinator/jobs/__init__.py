"""Functions over one job: its ledger and the deliveries that are held for it."""
