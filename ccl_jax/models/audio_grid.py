"""Audio latents on the grid of frames that both streams share.

A frame has the latents whose middle falls in its span (`audio_starts`): c
latents or, if c is not an integer, floor(c) or ceil(c). Then each frame has
ceil(c) tokens, and the last token of the shorter frames is padding: a copy that
no token reads and that the output leaves out. For c = 2.6,

    frame    0        1        2        3
    latents  0 1 2  | 3 4 _  | 5 6 7  | 8 9 _
"""

import dataclasses
import math

import einops
import numpy as np

from ccl_jax.array_types import Array, Bool, Float, Int, audio_starts


@dataclasses.dataclass(frozen=True)
class AudioGrid:
  """A grid of f `frames` with c = `per_frame` latents each."""

  frames: int
  per_frame: float | int

  @classmethod
  def of(cls, num_latents: int, per_frame: float | int) -> "AudioGrid":
    """Returns the grid of m latents; ValueError unless they fill frames."""
    grid = cls(round(num_latents / per_frame), per_frame)
    if grid.num_latents != num_latents:
      raise ValueError(
        f"{num_latents} audio latents: expected m a multiple of {per_frame:g}"
        " (audio latents per video frame), rounded; crop or pad them, to"
        f" {grid.num_latents}."
      )
    return grid

  @property
  def num_latents(self) -> int:
    """Returns m."""
    return int(audio_starts(self.frames, self.per_frame)[-1])

  @property
  def slots(self) -> int:
    """Returns the number of tokens of a frame."""
    return math.ceil(self.per_frame)

  @property
  def is_full(self) -> bool:
    """Returns whether every token is a latent."""
    return self.num_latents == self.frames * self.slots

  @property
  def latents(self) -> Int[np.ndarray, " n"]:
    """Returns the index of each token's latent."""
    starts = audio_starts(self.frames, self.per_frame)
    index = starts[:-1, None] + np.arange(self.slots)
    return np.minimum(index, starts[1:, None] - 1).ravel()

  @property
  def is_padding(self) -> Bool[np.ndarray, " n"]:
    """Returns whether each token is padding."""
    return np.diff(self.latents, prepend=-1) == 0

  @property
  def tokens(self) -> Int[np.ndarray, " m"]:
    """Returns the index of each latent's token."""
    return np.flatnonzero(~self.is_padding)

  def pad(self, x: Float[Array, " b m *c"]) -> Float[Array, " b f s *c"]:
    """Returns the tokens of latents."""
    x = x if self.is_full else x[:, self.latents]
    return einops.rearrange(x, "b (f s) ... -> b f s ...", s=self.slots)

  def unpad(self, x: Float[Array, " b f s *c"]) -> Float[Array, " b m *c"]:
    """Returns the latents of tokens."""
    x = einops.rearrange(x, "b f s ... -> b (f s) ...")
    return x if self.is_full else x[:, self.tokens]
