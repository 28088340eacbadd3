"""Where results live: content-addressed, whole or absent, shared by concurrent sweeps."""
