"""Latents -> clips to look at and to listen to."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tqdm
from etils import epath
from jaxtyping import Float, UInt8

from ccl_jax.array_types import STREAMS
from ccl_jax.codecs.api import Codecs
from ccl_jax.data import loader, media, records
from ccl_jax.files import replacing


@dataclasses.dataclass(frozen=True)
class ClipShape:
  """What a clip is, in pixels and seconds, and hence in latents."""

  fps: float
  frames: int
  size: tuple[int, int]

  def latents(self, codecs: Codecs) -> dict[str, tuple[int, ...]]:
    """Stream -> shape of one clip's latents, (f, h, w, c) and (m, c)."""
    shapes = records.latent_shapes(codecs, self.fps, self.frames, self.size)
    return {stream: tuple(shapes[stream]) for stream in STREAMS}

  def samples(self, codecs: Codecs) -> int:
    """How many samples of sound a clip has."""
    return round(self.frames / self.fps * codecs.audio.sample_rate)

  def check(
    self,
    codecs: Codecs,
    videos: Sequence[np.ndarray],
    audios: Sequence[np.ndarray],
  ) -> None:
    """Raises ValueError for what is no clip of this shape."""
    frames, samples = (self.frames, *self.size, 3), (self.samples(codecs),)
    given = [(x, frames) for x in videos] + [(x, samples) for x in audios]
    for x, wanted in given:
      if x.shape != wanted:
        raise ValueError(
          f"given {x.shape=}, expected {wanted}: see data.media.read_clip."
        )


@dataclasses.dataclass(frozen=True)
class GeneratedClip:
  """One result: frames, sound, or both, and the sound's log-mel."""

  fps: float
  sample_rate: int
  video: UInt8[np.ndarray, "t y x 3"] | None = None
  audio: Float[np.ndarray, " s"] | None = None
  mel: Float[np.ndarray, "n mels"] | None = None

  def save(self, path: epath.PathLike) -> epath.Path:
    """Writes mp4, or wav if there is only sound; returns the path written."""
    path = epath.Path(path)
    if self.video is None:
      path = path.with_suffix(".wav")
      media.write_wav(path, self.audio, self.sample_rate)
    else:
      path = path.with_suffix(".mp4")
      media.write_mp4(path, self.video, self.fps, self.audio, self.sample_rate)
    return path


def decode(
  latents: Mapping[str, np.ndarray], codecs: Codecs, shape: ClipShape
) -> list[GeneratedClip]:
  """Pixels and sound of each item; sound is cut to the video's length.

  latents: "video" (b, f, h, w, c), "audio" (b, m, c), or one of them.
  """
  num = len(next(iter(latents.values())))
  rate = codecs.audio.sample_rate
  items: list[dict] = [{} for _ in range(num)]
  if "video" in latents:
    videos = codecs.video.decode(latents["video"])
    for item, video in zip(items, videos, strict=True):
      item["video"] = video
  if "audio" in latents:
    sounds = decode_sound(latents["audio"], codecs, shape)
    mels = codecs.audio.mel(latents["audio"])
    for item, sound, mel in zip(items, sounds, mels, strict=True):
      item["audio"], item["mel"] = sound, mel
  return [GeneratedClip(shape.fps, rate, **item) for item in items]


def decode_sound(
  latents: Float[np.ndarray, "b m c"], codecs: Codecs, shape: ClipShape
) -> Float[np.ndarray, "b s"]:
  """Sound, cut to the video's length."""
  return codecs.audio.decode(latents)[:, : shape.samples(codecs)]


def write(
  latents: Mapping[str, np.ndarray],
  codecs: Codecs,
  shape: ClipShape,
  paths: Sequence[epath.PathLike],
  given: Mapping[str, Sequence[np.ndarray]],
) -> None:
  """Decodes clips into mp4 files, or wav files if there is only sound.

  No more of their pixels is in memory than a piece of time of each.

  Args:
    latents: as `decode` takes them.
    paths: one for each clip.
    given: frames (t, y, x, 3) of each clip as "video", or samples as "audio",
      to be written instead of what the latents stand for.
  """
  rate = codecs.audio.sample_rate
  sounds = [None] * len(paths)
  if "audio" in given:
    sounds = given["audio"]
  elif "audio" in latents:
    sounds = decode_sound(latents["audio"], codecs, shape)
  if "video" not in latents:
    for path, sound in zip(paths, sounds, strict=True):
      media.write_wav(path, sound, rate)
    return
  if "video" in given:
    pieces = [given["video"]]
  else:
    pieces = codecs.video.stream(latents["video"])
  with contextlib.ExitStack() as stack:
    adds = [
      stack.enter_context(media.writing_mp4(path, shape.fps, sound, rate))
      for path, sound in zip(paths, sounds, strict=True)
    ]
    for piece in pieces:
      for add, images in zip(adds, piece, strict=True):
        for image in images:
          add(image)


def decode_records(
  path: epath.PathLike,
  output: epath.PathLike,
  split: str,
  num: int,
  *,
  force: bool = False,
) -> list[str]:
  """Decodes the first `num` clips of a split; returns the files' names.

  Each is `output`/NAME.mp4, or NAME.wav if it has no picture; a second clip of
  the same name gets its place among the records behind it.

  Raises:
    ValueError: no such records or split, or `output` exists and not `force`.
  """
  if epath.Path(output).exists() and not force:
    raise ValueError(
      f"{output} exists: choose another, or replace it: --force."
    )
  metadata = records.read_metadata(path)
  shape = ClipShape(
    metadata["fps"], metadata["frames"], tuple(metadata["size"])
  )
  found = min(num, len(records.open_split(path, split)))
  codecs = Codecs.load(epath.Path(path) / "codecs")
  written = []
  with replacing(output) as partial:
    partial.mkdir()
    for i in tqdm.trange(found, desc="decoding", unit=" clips"):
      clip = loader.read_clips(path, split, 1, start=i)
      latents = {s: clip[s] for s in STREAMS if clip[f"has_{s}"][0]}
      (made,) = decode(latents, codecs, shape)
      name = pathlib.PurePosixPath(clip["name"][0])
      suffix = ".wav" if made.video is None else ".mp4"
      if str(name.with_suffix(suffix)) in written:  # a.mp4 and a.mov
        name = name.with_stem(f"{name.stem}_{i}")
      file = made.save(partial / name)
      written.append(file.relative_to(partial).as_posix())
  return written
