"""Ray, and nothing about unlearning: the cluster, its nodes, how work is distributed, what a worker holds."""
