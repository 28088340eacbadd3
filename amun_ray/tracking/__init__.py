"""The only room that knows MLflow: what is logged, how it is sent, and how a model is loaded back."""

from amun_ray.base.databases import database_uri
from amun_ray.tracking.contact import downloaded
from amun_ray.tracking.entities import registered_name
from amun_ray.tracking.event import Event, Spool
from amun_ray.tracking.places import ARTIFACTS, settle
from amun_ray.tracking.purging import Archive, Logged
from amun_ray.tracking.saved import load_model, model_files, saved_model
from amun_ray.tracking.tracker import OBJECTIVE, REQUEST, SCORE, Tracker

__all__ = ["ARTIFACTS", "OBJECTIVE", "REQUEST", "SCORE", "Archive", "Event", "Logged", "Spool", "Tracker",
           "database_uri", "downloaded", "load_model", "model_files", "registered_name", "saved_model", "settle"]
