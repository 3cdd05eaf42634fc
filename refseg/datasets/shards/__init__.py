"""A data set's pictures in a few tar files: writing and reading them."""
