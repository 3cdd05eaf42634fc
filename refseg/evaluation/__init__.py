"""Scores: metrics, protocols, evaluation of a checkpoint, and what attention points at."""
