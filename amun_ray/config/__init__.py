"""From YAML to a checked `Sweep`: the only room that knows pydantic."""
