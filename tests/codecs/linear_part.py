"""Codecs with a convolutional net, without it."""


def linear_part(codec):
  """A codec without its net; other codecs as they are."""
  base = getattr(codec, "base", None)
  return base(codec.mean, codec.basis, codec.scale) if base else codec
