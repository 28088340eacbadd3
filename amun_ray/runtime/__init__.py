"""Ray, and nothing of unlearning: the cluster, its nodes, how work is handed out, what a worker holds."""
