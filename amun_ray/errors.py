"""The exceptions of the package, all in one place.

    ValueError
      +- UserError      something the user wrote or supplied, and can mend: ends a command with one line and exit code 2
    RuntimeError
      +- Diverged       a training run whose loss or weights left the finite numbers: ends one trial, not the sweep
"""


class UserError(ValueError):
    """A mistake in a config, a file or an argument. The message says where, the rule, what came and what to do."""


class Diverged(RuntimeError):
    """Training produced a non-finite loss or weight."""
