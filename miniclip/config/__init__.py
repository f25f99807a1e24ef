"""All that knows Hydra: from what was typed to built parts, and back from a file."""
