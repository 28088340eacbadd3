"""How tests with made-up inputs run: 200 examples, always the same ones; AMUN_FUZZ=N asks for N new ones."""

import os

from hypothesis import HealthCheck, settings

COUNT = os.environ.get("AMUN_FUZZ")
SECONDS = 5  # in which a mistake must be said
FUZZ = settings(
    max_examples=int(COUNT or 200), derandomize=COUNT is None, database=None, deadline=1000 * SECONDS,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large])
