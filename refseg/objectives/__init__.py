"""The objectives: what training minimises, one class each."""
