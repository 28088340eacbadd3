"""The cluster of network namespaces, one for all tests that only look at it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    import hosts
    import team as teams
    reason = teams.reason_to_skip()
    if reason:
        pytest.skip(reason)
    with hosts.Network(tmp_path_factory.mktemp("hosts")) as network:
        yield teams.open_team(network)
