"""Attention blocks and decoders that the models are composed of."""
