"""Clips -> records of latents.

The first `frames` frames of every clip and their sound become one example,
written as `data.records` says. A clip that cannot be used is reported with its
reason and left out. Captions are read as `data.sources` says; a clip's split is
the one they name, else by hash.
"""

import dataclasses
from collections.abc import Sequence

from absl import logging
from etils import epath
from tqdm import tqdm

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.data import media, records, sources
from ccl_jax.data.reader import Reader


@dataclasses.dataclass(frozen=True)
class EncodeSettings:
  """What a clip is made into; the `encode` section of a config.

  Attributes:
    fps, frames, size: of every clip; 1 + 4k frames of (y, x) pixels.
    codec: "linear" is the only kind that can be fitted.
    video_channels, audio_channels, text_length, text_width: of the codecs.
    validation: share of the clips without a split of their own that is held
      out, chosen by hash of the name.
    fit_clips: how many clips the codecs are fitted on.
    workers: processes that decode clips; 0 decodes in this one.
    need_video, need_audio, need_caption: whether a clip without is left out.
  """

  codec: str = "linear"
  fps: float = 25.0
  frames: int = 49
  size: tuple[int, int] = (64, 64)
  video_channels: int = 16
  audio_channels: int = 20
  text_length: int = 32
  text_width: int = 64
  validation: float = 0.02
  fit_clips: int = 200
  workers: int = 2
  need_video: bool = True
  need_audio: bool = True
  need_caption: bool = True

  def __post_init__(self):
    if self.codec != "linear":
      raise ValueError(f"encode.codec='{self.codec}': expected 'linear'.")
    if self.frames < 1 or self.frames % 4 != 1:
      raise ValueError(f"encode.frames={self.frames}: expected 1 + 4k.")
    if len(self.size) != 2 or any(n < 8 or n % 8 for n in self.size):
      raise ValueError(f"encode.size={self.size}: expected multiples of 8.")
    if not 0 <= self.validation < 1 or self.fps <= 0 or self.fit_clips < 1:
      raise ValueError(
        f"encode.validation={self.validation} must be in [0, 1); positive:"
        f" encode.fps={self.fps}, encode.fit_clips={self.fit_clips}."
      )


@dataclasses.dataclass
class Summary:
  """What became of the clips."""

  encoded: dict[str, int] = dataclasses.field(default_factory=dict)
  skipped: dict[str, str] = dataclasses.field(default_factory=dict)
  without_caption: int = 0
  cut_captions: int = 0

  def __str__(self) -> str:
    counts = ", ".join(f"{n} {split}" for split, n in self.encoded.items())
    return (
      f"Encoded {sum(self.encoded.values())} clips ({counts}), left out"
      f" {len(self.skipped)}. {self.without_caption} have no caption;"
      f" {self.cut_captions} captions were cut to encode.text_length tokens."
    )


def encode(
  folder: epath.PathLike,
  output: epath.PathLike,
  settings: EncodeSettings,
  *,
  captions: epath.PathLike | None = None,
  codecs: Codecs | None = None,
  force: bool = False,
) -> Summary:
  """Writes the records of every usable clip of `folder` to `output`.

  codecs: used as they are; None fits new ones.

  Raises:
    ValueError: bad captions, no usable clip, or `output` exists and not
      `force`. Then `output` is as it was.
  """
  if epath.Path(output).exists() and not force:
    raise ValueError(
      f"{output} exists: choose another, or replace it: --force."
    )
  clips = sources.list_sources(folder, captions)
  clips = [
    clip._replace(
      split=clip.split or records.split_of(clip.name, settings.validation)
    )
    for clip in clips
  ]
  summary = Summary(without_caption=sum(not clip.caption for clip in clips))
  with make_reader(settings) as reader:
    codecs = codecs or fit_codecs(clips, reader, settings)
    with records.writing(
      output,
      codecs,
      fps=settings.fps,
      frames=settings.frames,
      size=settings.size,
    ) as writer:
      progress = tqdm(reader(clips), "encoding", len(clips), unit=" clips")
      for source, clip in progress:
        if isinstance(clip, media.ClipError):
          summary.skipped[source.name] = str(clip)
          logging.warning("Left out: %s", clip)
          continue
        tokens = codecs.text.num_tokens(source.caption)
        summary.cut_captions += tokens > codecs.text.max_length
        writer.add(encode_clip(source, clip, codecs))
      if not writer.counts:
        raise none_usable(summary.skipped)
  summary.encoded = dict(writer.counts)
  return summary


def encode_clip(
  source: sources.Source, clip: media.Clip, codecs: Codecs
) -> records.Example:
  """The latents of one clip and the embedding of its caption."""
  video, audio = clip
  return records.Example(
    source.name,
    source.split,
    source.caption,
    codecs.text.encode(source.caption),
    None if video is None else codecs.video.encode(video[None])[0],
    None if audio is None else codecs.audio.encode(audio[None])[0],
  )


def fit_codecs(
  clips: Sequence[sources.Source], reader: Reader, settings: EncodeSettings
) -> Codecs:
  """Codecs for what is in `fit_clips` training clips, evenly chosen."""
  train = [c for c in clips if c.split == "train"] or clips
  num = min(settings.fit_clips, len(train))
  chosen = [train[i * len(train) // num] for i in range(num)]
  progress = tqdm(reader(chosen), "reading to fit", num, unit=" clips")
  read = list(progress)
  good = [clip for _, clip in read if isinstance(clip, media.Clip)]
  if not good:
    raise none_usable({s.name: str(error) for s, error in read})
  videos = [clip.video for clip in good if clip.video is not None]
  audios = [clip.audio for clip in good if clip.audio is not None]
  if not videos or not audios:
    raise ValueError(
      f"Of {num} clips {len(videos)} have pictures and {len(audios)} sound:"
      " codecs cannot be fitted; name fitted ones with --codecs."
    )
  return Codecs(
    LinearVideoCodec.fit(videos, settings.video_channels),
    LinearAudioCodec.fit(audios, settings.audio_channels),
    HashedText(settings.text_width, settings.text_length),
  )


def make_reader(settings: EncodeSettings) -> Reader:
  """What decodes the clips as the settings say."""
  return Reader(
    settings.workers,
    need_caption=settings.need_caption,
    fps=settings.fps,
    size=settings.size,
    frames=settings.frames,
    need_video=settings.need_video,
    need_audio=settings.need_audio,
  )


def none_usable(skipped: dict[str, str]) -> ValueError:
  """The error for when every clip was left out."""
  reasons = "\n  ".join(list(skipped.values())[:5])
  return ValueError(f"None of {len(skipped)} clips can be used:\n  {reasons}")
