"""Processes: pools, signals, and the hosts of one run."""
