"""The one room that knows MLflow: what it is told, how it is told, and how a model comes back from it."""

from amun_ray.tracking.contact import downloaded
from amun_ray.tracking.event import Event, Spool
from amun_ray.tracking.purging import Archive, Logged
from amun_ray.tracking.saved import load_model, model_files, saved_model
from amun_ray.tracking.tracker import Tracker, registered_name

__all__ = ["Archive", "Event", "Logged", "Spool", "Tracker", "downloaded", "load_model", "model_files",
           "registered_name", "saved_model"]
