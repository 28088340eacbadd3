"""A Ray of two nodes on this machine, one CPU each, until standard input is closed.

    python tests/two_nodes.py       prints {"address": HOST:PORT, "raylets": [process of the head's, of the other's]}
"""

import json
import sys

from ray.cluster_utils import Cluster

LEAN = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False}


def raylet(node) -> int:
    return node.all_processes["raylet"][0].process.pid


if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args=LEAN)
    other = cluster.add_node(**LEAN)
    print(json.dumps({"address": cluster.address, "raylets": [raylet(cluster.head_node), raylet(other)]}), flush=True)
    sys.stdin.read()
    cluster.shutdown()
