"""The `encode` section of a config."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ccl_jax.codecs.api import Codecs
from ccl_jax.config import FORMS, check_value
from ccl_jax.data.clip import ClipShape

FITTED = ("linear", "conv")  # on the clips
KINDS = (*FITTED, "wan")
_STRIDE = 8  # pixels of a latent, in both directions


@dataclasses.dataclass(frozen=True)
class EncodeSettings:
  """The codecs and the shape of clips of a data set.

  Attributes:
    codec: "linear" or "conv", fitted on the clips, or "wan": Wan's video,
      MMAudio's sound and umT5's text, opened from `weights`.
    weights: files or folders of "video", "audio", "vocoder", "text" and
      "tokenizer"; of "image", CLIP, only for models that read its tokens; of
      "wav2vec2" in place of "audio" and "vocoder" for models that sound
      controls.
    video_options, audio_options: of the learned codecs, such as tiles.
    fps, frames, size: of every clip; 1 + 4k frames of (y, x) pixels.
    buckets: (frames, y, x) of several shapes, in place of `frames` and `size`;
      each clip gets the one that keeps most of it. Previews are of the first.
    max_upscale: with `buckets`, leave out clips that each would enlarge more.
    video_channels, audio_channels, text_length, text_width: of the codecs.
    validation_fraction: fraction of the clips without a split of their own that
      goes to "validation", chosen by a hash of the name.
    num_fit_clips: number of clips on which codecs are fitted.
    batch_size: clips in one call of a codec, over all of a host's devices.
    clips_per_shard: clips in a file, and at most those that are encoded again
      after an interruption.
    keep_logvar: store the variance of latents, where the codec has one, so that
      training can sample them.
    num_workers: processes that decode clips; 0 decodes in this one.
    need_video, need_audio, need_caption: leave out clips without it.
    windows: the examples of a clip: "first", its first `frames` frames; "all",
      as many windows as fit; or a number, at most that many, evenly chosen.
    window_stride: seconds from the start of a window to the next; 0 is a
      window's length.
    window_rest: seconds after the last window that are worth one more, which
      ends with the clip; 0 never adds one.
  """

  codec: str = "linear"
  weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
  video_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  audio_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  fps: float = 25.0
  frames: int = 49
  size: tuple[int, int] = (64, 64)
  buckets: Sequence[Any] = ()
  max_upscale: float = 1.5
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
  windows: str | int = "first"
  window_stride: float = 0.0
  window_rest: float = 0.0

  def __post_init__(self):
    rules = {
      "codec": (self.codec in KINDS, f"one of {KINDS}"),
      "fps": (self.fps > 0, "a positive number"),
      "frames": _check_frames(self.frames),
      "size": _check_size(self.size),
      "max_upscale": (self.max_upscale > 0, "a positive factor"),
      "validation_fraction": (0 <= self.validation_fraction < 1, "in [0, 1)"),
      "windows": (
        re.fullmatch("first|all|0*[1-9][0-9]*", str(self.windows)),
        "'first', 'all' or a number",
      ),
      "num_workers": (self.num_workers >= 0, "0 or more"),
    }
    for name in ("window_stride", "window_rest"):
      rules[name] = 0 <= getattr(self, name) < math.inf, "0 or more seconds"
    for name in ("num_fit_clips", "batch_size", "clips_per_shard"):
      rules[name] = getattr(self, name) >= 1, "1 or more"
    for name, (is_valid, expected) in rules.items():
      value = getattr(self, name)
      check_value(f"encode.{name}", value, bool(is_valid), expected)
    self._check_buckets()

  def _check_buckets(self) -> None:
    for bucket in self.buckets:
      if not isinstance(bucket, tuple | list) or len(bucket) != 3:
        raise ValueError(
          f"encode.buckets={self.buckets!r}: expected triples,"
          f" --config.encode.buckets={FORMS['encode.buckets']}"
        )
      frames, *size = bucket
      rules = {"frames": _check_frames(frames), "size": _check_size(size)}
      for name, (is_valid, expected) in rules.items():
        if not is_valid:
          raise ValueError(
            f"encode.buckets has {tuple(bucket)!r}: expected as its {name}"
            f" {expected}."
          )
    if len(set(map(tuple, self.buckets))) < len(self.buckets):
      raise ValueError(f"encode.buckets={self.buckets!r} has a shape twice.")

  @property
  def shapes(self) -> tuple[ClipShape, ...]:
    """Returns the shapes of the clips, one or those of the buckets."""
    buckets = self.buckets or ((self.frames, *self.size),)
    return tuple(ClipShape(self.fps, n, (y, x)) for n, y, x in buckets)

  @property
  def shape(self) -> ClipShape:
    """Returns the first of the shapes."""
    return self.shapes[0]

  def check_patch(self, patch: int) -> None:
    """Raises ValueError with the nearest sizes if a model cannot take these.

    Args:
      patch: rows and columns of latents that become a token of the model.
    """
    if patch < 1:
      raise ValueError(f"model.video.patch is {patch}: expected 1 or more.")
    step = _STRIDE * patch
    key = "buckets" if self.buckets else "size"
    for size in (shape.size for shape in self.shapes):
      if any(n % step for n in size):
        raise ValueError(
          f"encode.{key}={size!r}: the model (model.video.patch={patch})"
          f" takes multiples of {step}. The nearest: {_nearest(size, step)}."
        )

  def check(self, codecs: Codecs) -> None:
    """Raises ValueError if codecs have other sizes than these settings."""
    found = {
      "video_channels": codecs.video.channels,
      "audio_channels": codecs.audio.channels,
      "text_length": codecs.text.max_length,
      "text_width": codecs.text.width,
    }
    wrong = [
      f"encode.{name} is {getattr(self, name)}, the codecs' is {value}"
      for name, value in found.items()
      if getattr(self, name) != value
    ]
    if wrong:
      raise ValueError(
        f"The codecs have other sizes: {'; '.join(wrong)}. Set the config to"
        " the codecs' sizes."
      )


def _check_frames(frames: Any) -> tuple[bool, str]:
  """Returns whether a number of frames is possible, and what is expected."""
  is_whole = isinstance(frames, int)
  near = max(frames - 1, 0) // 4 * 4 + 1 if is_whole else 49
  is_valid = is_whole and frames > 0 and frames % 4 == 1
  return is_valid, f"1 + 4k, such as {near}"


def _check_size(size: Sequence[Any]) -> tuple[bool, str]:
  """Returns whether (y, x) is possible, and what is expected."""
  are_two = len(size) == 2 and all(isinstance(n, int) for n in size)
  near = _nearest(size if are_two else (64, 64), 16)
  is_valid = are_two and all(n > 0 and not n % _STRIDE for n in size)
  return is_valid, f"two multiples of {_STRIDE}, such as {near}"


def _nearest(size: Sequence[int], step: int) -> str:
  """Returns the nearest smaller and larger (y, x) of multiples of `step`."""
  sizes = (
    tuple(max(round_(n / step), 1) * step for n in size)
    for round_ in (math.floor, math.ceil)
  )
  return " or ".join(dict.fromkeys(map(str, sizes)))
