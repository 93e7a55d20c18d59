"""Latents -> frames and sound, in memory or as files."""

import contextlib
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tqdm
from etils import epath
from jaxtyping import Float

from ccl_jax.array_types import STREAMS
from ccl_jax.codecs.api import Codecs
from ccl_jax.data import loader, media, records
from ccl_jax.data.clip import ClipShape, FileNames, GeneratedClip
from ccl_jax.storage.files import check_apart, check_new, replacing
from ccl_jax.storage.text_files import write_json

FILE = "decoded.json"  # says what the clips beside it were decoded from


def decode_clips(
  latents: Mapping[str, np.ndarray], codecs: Codecs, shape: ClipShape
) -> list[GeneratedClip]:
  """Decodes latents to frames and sound, the sound cut to the video's length.

  Clips are silent where the sound's codec has no decoder.

  Args:
    latents: "video" (b, f, h, w, c), "audio" (b, m, c), or one of them.
  """
  num, fields = len(next(iter(latents.values()))), {}
  if "video" in latents:
    fields["video"] = codecs.video.decode(latents["video"])
  if "audio" in latents and codecs.audio.has_decoder:
    fields["audio"] = decode_audio(latents["audio"], codecs, shape)
    fields["mel"] = codecs.audio.mel(latents["audio"])
  rate = codecs.audio.sample_rate
  return [
    GeneratedClip(shape.fps, rate, **{k: x[i] for k, x in fields.items()})
    for i in range(num)
  ]


def decode_audio(
  latents: Float[np.ndarray, "b m c"], codecs: Codecs, shape: ClipShape
) -> Float[np.ndarray, "b s"]:
  """Returns samples, cut to the video's length."""
  return codecs.audio.decode(latents)[:, : shape.num_samples(codecs)]


def write_clips(
  latents: Mapping[str, np.ndarray],
  codecs: Codecs,
  shape: ClipShape,
  paths: Sequence[epath.PathLike],
  inputs: Mapping[str, Sequence[np.ndarray]],
) -> None:
  """Decodes clips into mp4 files, or wav files if there is no video.

  The video is decoded in pieces of time, so that the frames of one piece are in
  memory at once.

  Args:
    latents: as in `decode_clips`.
    paths: one for each clip.
    inputs: frames (t, y, x, 3) of each clip as "video", or samples as "audio".
      They are written in place of the decoded latents of that stream, with
      little loss or none.
  """
  rate = codecs.audio.sample_rate
  audios = [None] * len(paths)
  if "audio" in inputs:
    audios = inputs["audio"]
  elif "audio" in latents and codecs.audio.has_decoder:
    audios = decode_audio(latents["audio"], codecs, shape)
  if "video" not in latents:
    for path, audio in zip(paths, audios, strict=True):
      media.write_wav(path, audio, rate)
    return
  if "video" in inputs:
    pieces = [inputs["video"]]
  else:
    pieces = codecs.video.stream(latents["video"])
  quality = media.quality_of_inputs(inputs)
  with contextlib.ExitStack() as stack:
    add_frames = [
      stack.enter_context(
        media.writing_mp4(path, shape.fps, audio, rate, **quality)
      )
      for path, audio in zip(paths, audios, strict=True)
    ]
    for piece in pieces:
      for add_frame, images in zip(add_frames, piece, strict=True):
        for image in images:
          add_frame(image)


def decode_records(
  path: epath.PathLike,
  output: epath.PathLike,
  split: str,
  num: int,
  *,
  force: bool = False,
) -> list[str]:
  """Decodes the first `num` clips of a split; returns the files' names.

  Each file is `output`/NAME.mp4, or NAME.wav for a clip without video, with a
  name as of `FileNames`. `FILE` marks the folder.

  Args:
    force: replace an `output` with such a file.

  Raises:
    ValueError: no such records or split, or `output` exists and not `force`, or
      is something else.
  """
  check_apart(output, path)
  check_new(output, force, lambda names: FILE in names)
  found = records.list_examples(path, [split])[:num]
  codecs = Codecs.load(epath.Path(path) / "codecs")
  names, written = FileNames(), []
  with replacing(output) as partial:
    partial.mkdir()
    bar = tqdm.tqdm(found, desc="decoding", unit=" clips")
    for i, (folder, _, place) in enumerate(bar):
      clip = loader.read_clips(folder, split, 1, start=place)
      shape = ClipShape.from_dict(records.read_metadata(folder))
      latents = {s: clip[s] for s in STREAMS if clip[f"has_{s}"][0]}
      (decoded,) = decode_clips(latents, codecs, shape)
      suffix = ".wav" if decoded.video is None else ".mp4"
      written.append(names.make(clip["name"][0], suffix, i))
      decoded.save(partial / written[-1])
    write_json(partial / FILE, {"data": os.fspath(path), "split": split})
  return written
