"""Models of this package; importing one of their modules registers what it holds."""
