"""The section `requests` of a config: how a model in production forgets, one request after another."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from amun_ray.config.fields import Name, Natural, Strict, Uri

Points = Annotated[float, Field(ge=0, le=100)]


class Limits(Strict):
    """The limits within which a new model is accepted, for the measured values, not their intervals; null: no limit."""

    test_accuracy_lost: Points | None = 1.0
    """Largest loss of test accuracy against the first original, in points."""
    forget_test_auc: Points | None = 55.0
    """Largest FT AUC on the rows of the request, in percent."""
    average_gap: Points | None = None
    """Largest Avg. Gap to a retrained model, in points; judged only when `recheck` measures it."""


class Batch(Strict):
    """Requests wait until one of the two is reached."""

    rows: PositiveInt = 1
    """How many rows must wait before they are forgotten together."""
    days: Annotated[float, Field(ge=0)] | None = None
    """Longest wait of the oldest request, in days; null means no limit."""


class Requests(Strict):
    """Deletion in production, by `amun-forget`; the sweep does not read it."""

    model: Name | None = None
    """The name of the model in MLflow's registry; the name of the sweep if not given."""
    alias: Name = "production"
    """The alias of the version in production."""
    ledger: Uri | None = None
    """The ledger, `sqlite:///PATH` or `postgresql+psycopg2://HOST/DATABASE`; a file of the output if not given."""
    limits: Limits = Limits()
    """The limits within which a new model is accepted."""
    batch: Batch = Batch()
    """When waiting requests are forgotten together."""
    adaptive: bool = True
    """Whether adversarial images are found on the current model (AMUN-A), or on the first original (AMUN)."""
    promote: Literal["auto", "asked"] = "asked"
    """Whether an accepted model gets the alias automatically, or only with `--promote`."""
    purge: Literal["auto", "asked"] = "asked"
    """Whether data made from forgotten rows is deleted after promotion, or only with `--purge`."""
    recheck: Natural = 5
    """Compare every N-th model with a retrained one; 0 means never."""
    references: Literal["kept", "anew"] = "kept"
    """Whether a recheck measures with the sweep's reference models, or trains some without rows of earlier requests."""
    forgotten: tuple[Uri, ...] = ()
    """Ledgers, as `ledger`, whose requested pictures are left out of the data: for a sweep that begins anew."""


class Standing(BaseModel):
    """All of a config that what a ledger says needs; the rest of it is not looked at, which spares seconds of torch."""

    model_config = ConfigDict(frozen=True)
    name: Name
    requests: Requests = Requests()
