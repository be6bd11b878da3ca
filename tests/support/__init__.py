"""What suites share: tiny models, small tables, synthetic runs, and servers that run on this machine."""
