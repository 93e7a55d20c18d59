"""Array types, dimension letters and helpers that all packages share.

Letters: `b` batch, `f h w` latent grid, `s` tokens per frame, `c` channels,
`n` video tokens, `m` audio tokens, `l` text tokens, `j` context tokens,
`k` heads, `e` head size, `d` width. Pixels are `b t y x 3`, sound is `b s`.

The joint state is `{"video": (b, f, h, w, c), "audio": (b, m, c)}`; functions
on it accept either stream alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree
from jaxtyping import Real as Real  # for others to import
from jaxtyping import UInt8 as UInt8

from ccl_jax.streams import STREAMS as STREAMS

State = dict[str, jax.Array]


class Route(NamedTuple):
  """Who sees what and what is generated, per sample: bools of shape (b,).

  A stream that is not generated is a *reference*: its time is 0, it has no
  loss, and its features are detached before the other stream reads them.

  Attributes:
    sees: stream -> whether it reads the other stream.
    is_generated: stream -> whether it is generated.
    exchanges: False switches the cross-modal module off ("dropped").
  """

  sees: dict[str, Bool[Array, " b"]]
  is_generated: dict[str, Bool[Array, " b"]]
  exchanges: Bool[Array, " b"]


class Image(NamedTuple):
  """Image conditioning of a video stream; all or part.

  Attributes:
    latents: mask and latents of a clip that begins with the image, as channels
      beside the noisy ones, (b, f, h, w, 20), as Wan2.1's I2V.
    tokens: CLIP's features, (b, 257, 1280), read beside the text, as in I2V.
    references: latents of r reference pictures, which are clean frames beside
      those of the clip, (b, r, h, w, c).
    has_references: which of them each sample has, (b, r).
  """

  latents: Float[Array, "b f h w c"] | None = None
  tokens: Float[Array, "b i w"] | None = None
  references: Float[Array, "b r h w c"] | None = None
  has_references: Bool[Array, "b r"] | None = None

  @property
  def is_first_frame(self) -> bool:
    """Returns whether the clip begins with the image."""
    return self.latents is not None or self.tokens is not None


def other(stream: str) -> str:
  """Returns the name of the other stream."""
  return {"video": "audio", "audio": "video"}[stream]


def expand(t: Array, rank: int) -> Array:
  """Appends axes of size 1 until `t` has `rank` axes: (b,) -> (b, 1, 1)."""
  return t.reshape(t.shape + (1,) * (rank - t.ndim))


def interleave(*trees: PyTree) -> PyTree:
  """Interleaves p trees of arrays (b, ...) to one of (b p, ...), by sample."""
  if len(trees) == 1:
    return trees[0]
  return jax.tree.map(
    lambda *x: jnp.stack(x, axis=1).reshape(-1, *x[0].shape[1:]), *trees
  )


def audio_per_frame(
  fps: float, rate: float = 31.25, temporal_stride: int = 4
) -> float:
  """Returns c, audio latents per video latent frame: 5 at 25 fps, 7.8125 at 16.

  Not the quotient of their numbers: the causal first frame would make that 4.87
  for 121 frames at 25 fps (151 / 31).
  """
  return temporal_stride * rate / fps


def audio_starts(f: int, c: float | int) -> Int[np.ndarray, " n"]:
  """Returns the first audio latent of each of f frames, and their number m.

  Latent j belongs to the frame i in whose span its middle falls,

    i c <= j + 1/2 < (i + 1) c.

  If c is an integer, each frame has c latents, else counts vary by one.
  """
  # Rounded: a middle on a border must fall to the same side on any machine.
  return np.ceil(np.round(np.arange(f + 1) * c - 0.5, 6)).astype(int)
