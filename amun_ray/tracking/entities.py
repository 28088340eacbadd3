"""What MLflow shows besides parameters and metrics: descriptions, datasets, and an experiment's purpose."""

import json
import re

from mlflow.entities import Dataset, DatasetInput, InputTag

NOTE = "mlflow.note.content"  # the tag that MLflow shows as the description
LONGEST = (8000, 5000, 500)  # characters of a tag that MLflow 3, MLflow 2 and the first versions take
WHOLE = "description.md"  # the artifact with the whole of a description that was cut
CUT = f"\n\n(cut to MLflow's limit; the whole is the artifact {WHOLE})"
EXPERIMENT = {"mlflow.experimentKind": "custom_model_development",  # MLflow 3 opens it as training, not as GenAI
              NOTE: "Machine unlearning by amun_ray: each run without a parent is one sweep, and its "
                                     "description is the result."}
REGISTERED = "The best model of one method: it has unlearned what the tags of a version name."


def shortened(text: str, longest: int) -> str:
    """The text, or as many of its lines as fit into `longest` characters together with a note."""
    start = text[:longest - len(CUT)]
    return text if len(text) <= longest else f"{start.rpartition(chr(10))[0] or start}{CUT}"


def dataset(name: str, digest: str, samples: int, context: str) -> DatasetInput:
    """A dataset that a run read, as MLflow shows it; MLflow keeps the first 36 characters of a digest."""
    entity = Dataset(name=name, digest=digest[:36], source_type="local", source=json.dumps({"name": name}),
                     profile=json.dumps({"num_rows": samples}))
    return DatasetInput(dataset=entity, tags=[InputTag("mlflow.data.context", context)])


def registered_name(*parts: str) -> str:
    """A name that the model registry accepts: the parts joined by `-`, with `-` for every unusual character."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts))
