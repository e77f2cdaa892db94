"""What every network model shares: devices, host cores, counters and the record of a run."""
