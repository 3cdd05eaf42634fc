"""The authors' released checkpoints, read and written again as ours."""
