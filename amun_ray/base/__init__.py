"""What every room may use: errors, names, seeds, tensors, devices, files; nothing here knows of models or sweeps."""
