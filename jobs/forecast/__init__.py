"""The time, cost and bottleneck of a run, before it is paid for."""
