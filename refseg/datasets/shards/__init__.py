"""A data set's images in a few tar files: writing and reading them."""
