"""What every room may use: errors, names, seeds, tensors, devices, files. Nothing here knows models or sweeps."""
