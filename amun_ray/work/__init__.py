"""What training runs, shards, trials and final runs are: their addresses, the plan, and its progress; no Ray."""
