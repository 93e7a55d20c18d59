"""A stream in context: its tokens run through the blocks of the other stream.

It is a condition, never generated, and has one matrix of its own, which embeds
its latents to the other stream's width. Blocks, time embedding and head sizes
are the other's; it reads no text.
"""

import jax.numpy as jnp

from ccl_jax.array_types import Array, Float
from ccl_jax.models import layers
from ccl_jax.models.audio_grid import AudioGrid
from ccl_jax.models.dit import DiT


class InContextStream(DiT):
  """A stream without blocks.

  Args:
    kind: "audio".
    width, ffn, heads: of the other stream.
    channels, tokens_per_frame: as in `DiT`.

  Raises:
    ValueError: another kind.
  """

  def __init__(
    self, kind: str, *, num_layers: int, width: int, ffn: int, heads: int,
    channels: int, text_width: int, tokens_per_frame: float | int,
    frequency_dim: int = 256, rngs, dtype,
  ):  # fmt: skip
    if kind != "audio":
      raise ValueError(f"model.{kind}.in_context: expected of audio only.")
    del num_layers, ffn, text_width, frequency_dim
    self.kind, self.width, self.head_size = kind, width, width // heads
    self.channels = channels
    self.patch, self.tokens_per_frame = 1, tokens_per_frame
    self.embed = layers.linear(channels, width, rngs=rngs, dtype=dtype)

  def output(
    self,
    x: Float[Array, "b f s d"],
    e: Float[Array, " b #f #s d"],
    grid: tuple[int, int, int],
    frames: int,
  ) -> Float[Array, "b m c"]:
    """Returns a velocity of zero: it is given, at every time."""
    num = AudioGrid(frames, self.tokens_per_frame).num_latents
    return jnp.zeros((len(x), num, self.channels))
