"""What a training, a shard, a trial and a final run are: their addresses, the plan, what is done of it; no Ray."""
