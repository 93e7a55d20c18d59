"""Array types, dimension letters and the two facts that every part shares.

Letters: `b` batch, `f h w` latent grid, `s` tokens per frame, `c` channels,
`n` video tokens, `m` audio tokens, `l` text tokens, `j` context tokens,
`k` heads, `e` head size, `d` width. Pixels are `b t y x 3`, sound is `b s`.

The joint state is `{"video": (b, f, h, w, c), "audio": (b, m, c)}`; functions
on it accept either stream alone.
"""

from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int, PyTree, Real, UInt8

__all__ = [
  "STREAMS",
  "Array",
  "Bool",
  "Float",
  "Image",
  "Int",
  "PyTree",
  "Real",
  "Route",
  "State",
  "UInt8",
  "audio_per_frame",
  "other",
]

STREAMS = ("video", "audio")
State = dict[str, jax.Array]


class Route(NamedTuple):
  """Who sees what and what is generated, per sample; each field is (b,) bool.

  A stream that is not generated is a *reference*: its time is 0, it has no
  loss, and its features are detached before the other stream reads them.
  `exchanges` False switches the whole cross-modal module off ("dropped").
  """

  video_sees_audio: Bool[Array, " b"]
  audio_sees_video: Bool[Array, " b"]
  video_is_generated: Bool[Array, " b"]
  audio_is_generated: Bool[Array, " b"]
  exchanges: Bool[Array, " b"]

  def sees(self, stream: str) -> Bool[Array, " b"]:
    """Does `stream` read the other stream?"""
    return {"video": self.video_sees_audio, "audio": self.audio_sees_video}[
      stream
    ]

  def is_generated(self, stream: str) -> Bool[Array, " b"]:
    """Is `stream` generated (as opposed to given as a reference)?"""
    return {"video": self.video_is_generated, "audio": self.audio_is_generated}[
      stream
    ]


class Image(NamedTuple):
  """What a video stream is told of an image, as Wan2.1's I2V is; all or part.

  Attributes:
    latents: mask and latents of a clip that begins with it, (b, f, h, w, 20),
      channels beside the noisy ones.
    tokens: CLIP's features, (b, 257, 1280), read beside the text.
  """

  latents: Float[Array, "b f h w c"] | None = None
  tokens: Float[Array, "b i w"] | None = None


def other(stream: str) -> str:
  """The name of the other stream."""
  return {"video": "audio", "audio": "video"}[stream]


def audio_per_frame(
  fps: float, rate: float = 31.25, temporal_stride: int = 4
) -> int:
  """c, audio latents per video latent frame: 8, 5, 5 at 16, 24, 25 fps.

  Not floor(audio latents / video latents): the causal first frame would make
  that 4 for 121 frames at 25 fps (151 / 31).
  """
  return round(temporal_stride * rate / fps)
