"""The `encode` section of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ccl_jax.codecs.api import Codecs

KINDS = ("linear", "wan")


@dataclasses.dataclass(frozen=True)
class EncodeSettings:
  """What a clip is made into; the `encode` section of a config.

  Attributes:
    codec: "linear", fitted on the clips, or "wan": Wan's video, MMAudio's sound
      and umT5's text, opened from `weights`.
    weights: files or folders of "video", "audio", "vocoder", "text" and
      "tokenizer"; of "image", CLIP, only if the model is to read its tokens.
    video_options, audio_options: of the learned codecs, such as tiles.
    fps, frames, size: of every clip; 1 + 4k frames of (y, x) pixels.
    video_channels, audio_channels, text_length, text_width: of the codecs.
    validation_fraction: share of the clips without a split of their own that is held
      out, chosen by hash of the name.
    num_fit_clips: how many clips the codecs are fitted on.
    batch_size: clips that go through a codec at once, over all of a host's devices.
    clips_per_shard: clips in a file; so many are encoded again after an interruption.
    keep_logvar: keep the variance of latents, where the codec has one, so that
      training draws them.
    num_workers: processes that decode clips; 0 decodes in this one.
    need_video, need_audio, need_caption: whether a clip without is left out.
  """

  codec: str = "linear"
  weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
  video_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  audio_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  fps: float = 25.0
  frames: int = 49
  size: tuple[int, int] = (64, 64)
  video_channels: int = 16
  audio_channels: int = 20
  text_length: int = 32
  text_width: int = 64
  validation_fraction: float = 0.02
  num_fit_clips: int = 200
  batch_size: int = 8
  clips_per_shard: int = 256
  keep_logvar: bool = True
  num_workers: int = 2
  need_video: bool = True
  need_audio: bool = True
  need_caption: bool = True

  def __post_init__(self):
    if self.codec not in KINDS:
      raise ValueError(f"encode.codec='{self.codec}': expected one of {KINDS}.")
    if self.frames < 1 or self.frames % 4 != 1:
      raise ValueError(f"encode.frames={self.frames}: expected 1 + 4k.")
    if len(self.size) != 2 or any(n < 8 or n % 8 for n in self.size):
      raise ValueError(f"encode.size={self.size}: expected multiples of 8.")
    if (
      not 0 <= self.validation_fraction < 1
      or self.fps <= 0
      or self.num_fit_clips < 1
    ):
      raise ValueError(
        f"encode.validation_fraction={self.validation_fraction} must be in [0, 1); positive:"
        f" encode.fps={self.fps}, encode.num_fit_clips={self.num_fit_clips}."
      )
    if self.batch_size < 1 or self.clips_per_shard < 1:
      raise ValueError(
        f"Expected 1 or more: encode.batch_size={self.batch_size},"
        f" encode.clips_per_shard={self.clips_per_shard}."
      )

  @property
  def clip(self) -> dict[str, Any]:
    """What `records` wants to know of a clip."""
    return dict(fps=self.fps, frames=self.frames, size=self.size)

  def check(self, codecs: Codecs) -> None:
    """Raises ValueError where given codecs are not of the sizes said here."""
    found = {
      "video_channels": codecs.video.channels,
      "audio_channels": codecs.audio.channels,
      "text_length": codecs.text.max_length,
      "text_width": codecs.text.width,
    }
    wrong = [
      f"encode.{name} is {getattr(self, name)}, theirs {value}"
      for name, value in found.items()
      if getattr(self, name) != value
    ]
    if wrong:
      raise ValueError(f"These are not the codecs' sizes: {'; '.join(wrong)}.")
