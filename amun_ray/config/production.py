"""The section `requests` of a config: how a model in production forgets, one request after another."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

from amun_ray.config.fields import Name, Natural, Strict

Points = Annotated[float, Field(ge=0, le=100)]


def without_password(uri: str) -> str:
    if urlsplit(uri).password is not None:
        raise ValueError("must hold no password, which would end up in logs and in MLflow; PostgreSQL takes it from "
                         "PGPASSWORD or ~/.pgpass")
    return uri


class Limits(Strict):
    """What a new model must keep within to be accepted; null is no limit."""

    test_accuracy_lost: Points | None = 1.0
    """How many points of test accuracy a model may have less than the first original."""
    forget_test_auc: Points | None = 55.0
    """The most that FT AUC on the rows of the request may be, in percent."""
    average_gap: Points | None = None
    """The most that Avg. Gap to a retrained model may be, in points; judged where `recheck` measures it."""


class Batch(Strict):
    """Requests wait until one of the two is reached."""

    rows: PositiveInt = 1
    """How many rows must wait before they are forgotten together."""
    days: Annotated[float, Field(ge=0)] | None = None
    """After how many days the oldest request waits no longer; null is never."""


class Requests(Strict):
    """Deletion in production, by `amun-forget`; the sweep does not read it."""

    model: Name | None = None
    """The name of the model in MLflow's registry; the name of the sweep if not given."""
    alias: Name = "production"
    """The alias of the version in production."""
    ledger: Annotated[str, Field(min_length=1), AfterValidator(without_password)] | None = None
    """The ledger, `sqlite:///PATH` or `postgresql+psycopg2://HOST/DATABASE`; a file of the output if not given."""
    limits: Limits = Limits()
    """What a new model must keep within to be accepted."""
    batch: Batch = Batch()
    """How long requests wait for each other."""
    adaptive: bool = True
    """Whether adversarial images are found on the current model (AMUN-A), or on the first original (AMUN)."""
    promote: Literal["auto", "asked"] = "asked"
    """Whether an accepted model gets the alias by itself, or where `--promote` asks for it."""
    purge: Literal["auto", "asked"] = "asked"
    """Whether what was made from forgotten rows is deleted after promotion, or where `--purge` asks for it."""
    recheck: Natural = 5
    """After how many models one is compared with a model that is retrained; 0 is never."""
    references: Literal["kept", "anew"] = "kept"
    """Whether a recheck measures with the sweep's reference models, or trains some without rows of earlier requests."""
    forgotten: tuple[Annotated[str, Field(min_length=1), AfterValidator(without_password)], ...] = ()
    """Ledgers, as `ledger`, whose requested pictures are left out of the data: for a sweep that begins anew."""


class Standing(BaseModel):
    """All of a config that what a ledger says needs; the rest of it is not looked at, which spares seconds of torch."""

    model_config = ConfigDict(frozen=True)
    name: Name
    requests: Requests = Requests()
