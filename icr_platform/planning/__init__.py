"""What a run will take, before it runs: checks, tokens, time, memory, disk, the judge's price."""
