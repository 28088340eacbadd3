"""Where results live: content-addressed, whole or absent, shared by sweeps that run at once."""
