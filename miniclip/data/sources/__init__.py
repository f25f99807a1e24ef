"""Where images and captions come from, one source a file."""
