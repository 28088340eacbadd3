"""The one training loop: images resident on the device, augmented there, and control handed back after each epoch."""
