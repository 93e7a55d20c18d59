"""Numerical parts that models, codecs and diffusion share."""
