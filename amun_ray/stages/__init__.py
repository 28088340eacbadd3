"""The stages of a sweep: one file, one stage, one public function; the only room that knows Ray Tune and Optuna."""
