"""What MLflow shows besides parameters and metrics: descriptions, datasets, and an experiment's purpose."""

import json

from mlflow.entities import Dataset, DatasetInput, InputTag

from amun_ray.tracking.event import Event

LONGEST, CUT = 8000, "\n\n(cut to MLflow's limit; the artifacts have the full text)"
EXPERIMENT = {"mlflow.experimentKind": "custom_model_development",  # MLflow 3 opens it as training, not as GenAI
              "mlflow.note.content": "Machine unlearning by amun_ray: each run without a parent is one sweep, and its "
                                     "description is the result."}
REGISTERED = "The best model of one method: it has unlearned what the tags of a version name."


def described(event: Event) -> dict[str, str]:
    """The description as the tag that MLflow shows, cut to MLflow's limit."""
    text = event.description or ""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST - len(CUT)].rpartition(chr(10))[0]}{CUT}"
    return {"mlflow.note.content": text} if text else {}


def dataset(name: str, digest: str, samples: int, context: str) -> DatasetInput:
    """A dataset that a run read, as MLflow shows it; MLflow keeps the first 36 characters of a digest."""
    made = Dataset(name=name, digest=digest[:36], source_type="local", source=json.dumps({"name": name}),
                   profile=json.dumps({"num_rows": samples}))
    return DatasetInput(dataset=made, tags=[InputTag("mlflow.data.context", context)])
