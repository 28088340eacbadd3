"""The one training loop: images stay on the device and are augmented there; each epoch hands control back."""
