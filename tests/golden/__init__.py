"""What the recipe computed when these files were made: losses of training, a run and a sweep."""
