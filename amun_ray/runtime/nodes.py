"""What every node must have before a sweep may begin: the package, byte for byte, the store, the user's modules."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from amun_ray.base.errors import UserError, first_line
from amun_ray.base.log import say
from amun_ray.config.schema import Sweep
from amun_ray.storage.store import Store

WAIT_SECONDS = 300  # for the nodes that the cluster file promises
ANSWER_SECONDS = 300  # for one small task on each of them, which may import torch from a slow disk
Described = tuple[str, bool, dict[str, tuple[str, str] | None]]  # see `_describer`


def await_nodes(wanted: int, *, seconds: float = WAIT_SECONDS) -> None:
    """Wait until `wanted` nodes are up. A host that does not come is said, and holds nothing up for longer than that.

    `ray up` returns when the head is there; a sweep that began at once would take the cluster for one node.
    """
    deadline, told = time.monotonic() + seconds, False
    while (found := len(live_nodes())) < wanted:
        if not told:
            say(f"Ray: waiting up to {seconds:g} s for {wanted} nodes, {found} so far")
            told = True
        if time.monotonic() > deadline:
            say(f"Ray: only {found} of {wanted} nodes came; going on with them")
            return
        time.sleep(1)


def own_modules(sweep: Sweep) -> list[str]:
    """The user's modules that workers import. Data and checkpoints are no such need: they travel with the work."""
    return sorted({name.partition(":")[0] for name in sweep.own_names})


def check_nodes(store: Store, modules: Sequence[str] = ()) -> None:
    """One small task on each node, where there are several, or modules of the user's.

    Raises:
        UserError: nodes with another version of the package than this process, without the folder of `store`, without
            one of `modules` or with another one of its name; every such node is named.
    """
    nodes = live_nodes()
    if len(nodes) < 2 and not modules:
        return
    describe = _describer()
    with store.scratch() as folder:
        probe = ray.remote(num_cpus=0, max_retries=0)(describe)
        asked = [(node["NodeManagerAddress"], probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(
            node["NodeID"], soft=False)).remote(folder if store.local else None, modules)) for node in nodes]
        here = describe(None, modules)
        problems = [f"node {address}: {problem}" for address, answer in asked
                    for problem in _problems(answer, here, store.uri)]
    if problems:
        raise UserError("\n".join(problems))


def live_nodes() -> list[dict[str, Any]]:
    """The nodes that are up, as `ray.nodes()` describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def _problems(answer: "ray.ObjectRef[Any]", here: "Described", uri: str) -> list[str]:
    try:
        version, sees_store, modules = ray.get(answer, timeout=ANSWER_SECONDS)
    except ray.exceptions.RayError as error:  # of GetTimeoutError too: a node that is gone, or does not answer
        return [f"does not answer: {first_line(error)}"]
    problems = []
    if version != here[0]:
        problems.append(f"amun_ray {version} there, {here[0]} here; install the same on every node")
    if not sees_store:
        problems.append(f"does not see {uri}; on several nodes, --output or storage must name a folder that every node "
                        "mounts, or storage an object store such as s3://bucket/path")
    for module, found in modules.items():
        if found is None:
            problems.append(f"module {module!r} cannot be imported; install it, or put its folder on PYTHONPATH of all "
                            "nodes")
        elif (mine := here[2][module]) is not None and found[1] != mine[1]:
            problems.append(f"module {module!r} is {found[0]} there, with another content than {mine[0]} "
                            "here; put the folder of the right one first on PYTHONPATH, there and here")
    return problems


def _describer() -> Callable[[str | None, Sequence[str]], "Described"]:
    """The task: made inside a function, so that it travels whole and runs on a node with any version, or none.

    It answers with the version, whether the folder of the store is there, and the file of each module with the digest
    of its content, None for a module that is not there.
    """
    def describe(folder: str | None, modules: Sequence[str]) -> "Described":
        import hashlib
        import importlib
        import os
        from pathlib import Path

        def described(module: str) -> tuple[str, str] | None:
            try:
                file = getattr(importlib.import_module(module), "__file__", None)
            except ImportError:
                return None
            return file or module, hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()

        sees_store = folder is None or os.access(folder, os.W_OK)
        try:
            import amun_ray
            root = Path(amun_ray.__file__).parent
        except (ImportError, TypeError):  # TypeError: a folder of that name without the package in it
            return "is not installed", sees_store, {}
        content = hashlib.sha256()
        for path in sorted(root.rglob("*.py")):
            content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        return (f"{amun_ray.__version__} (content {content.hexdigest()[:8]})", sees_store,
                {module: described(module) for module in modules})
    return describe
