"""The stages of a sweep: one file, one stage, one public function; the only rooms that know Ray and Optuna."""
