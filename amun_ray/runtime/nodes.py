"""What every node must have before a sweep may begin: the identical package, the store, the user's modules."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from amun_ray.base.errors import UserError, first_line
from amun_ray.base.log import say
from amun_ray.config.schema import Sweep
from amun_ray.storage.store import Store

WAIT_SECONDS = 300  # for the nodes that the cluster file announces
ANSWER_SECONDS = 300  # for one small task on each of them, which may import torch from a slow disk
Described = tuple[str, bool, dict[str, tuple[str, str] | None]]  # see `_describer`


def await_nodes(wanted: int, *, seconds: float = WAIT_SECONDS) -> None:
    """Wait up to `seconds` until `wanted` nodes are up; if fewer come, say so and go on.

    `ray up` returns once the head is up; a sweep that began at once would see a cluster of one node.
    """
    deadline, told = time.monotonic() + seconds, False
    while (there := len(live_nodes())) < wanted:
        if not told:
            say(f"Ray: waiting up to {seconds:g} s for {wanted} nodes, {there} so far")
            told = True
        if time.monotonic() > deadline:
            say(f"Ray: only {there} of {wanted} nodes came; going on with them")
            return
        time.sleep(1)


def own_modules(sweep: Sweep) -> list[str]:
    """The user's modules that workers import. Those for data and checkpoints are not needed: their results are sent."""
    return sorted({name.partition(":")[0] for name in sweep.own_names})


def check_nodes(store: Store, modules: Sequence[str] = ()) -> None:
    """Check each node with one small task, if there are several nodes or any user modules.

    Raises:
        UserError: nodes with another version of the package than this process, without the folder of `store`, or where
            one of `modules` is missing or different; every such node is named.
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
    except ray.exceptions.RayError as error:  # includes GetTimeoutError: a node that is gone or does not answer
        return [f"does not answer: {first_line(error)}"]
    problems = []
    if version != here[0]:
        problems.append(f"amun_ray {version} there, {here[0]} here; install the same on every node")
    if not sees_store:
        problems.append(f"does not see {uri}; on several nodes, --output or storage must name a folder that every node "
                        "mounts, or storage an object store such as s3://bucket/path")
    for module, theirs in modules.items():
        if theirs is None:
            problems.append(f"module {module!r} cannot be imported; install it, or put its folder on PYTHONPATH of all "
                            "nodes")
        elif (mine := here[2][module]) is not None and theirs[1] != mine[1]:
            problems.append(f"module {module!r} is {theirs[0]} there, with another content than {mine[0]} "
                            "here; put the folder of the right one first on PYTHONPATH, there and here")
    return problems


def _describer() -> Callable[[str | None, Sequence[str]], "Described"]:
    """The task, defined inside a function so that it is pickled by value and runs on a node with any version, or none.

    It returns the version, whether the folder of the store is there, and each module's file with the digest of its
    content, or None for a missing module.
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
        except (ImportError, TypeError):  # TypeError: a folder with that name but without the package
            return "is not installed", sees_store, {}
        content = hashlib.sha256()
        for path in sorted(root.rglob("*.py")):
            content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        return (f"{amun_ray.__version__} (content {content.hexdigest()[:8]})", sees_store,
                {module: described(module) for module in modules})
    return describe
