"""Encoded clips as one page of HTML: frames, log-mel and caption of each.

The page needs no server and no network. It searches an index of all texts; the
pictures are in parts of `PAGE` clips, each parsed only when it is shown. All
text of the clips is data (JSON in scripts that do not run, and textContent).
"""

import base64
import io
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tqdm
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from ccl_jax.array_types import STREAMS
from ccl_jax.codecs.api import Codecs
from ccl_jax.data import decoding, loader, records
from ccl_jax.data.clip import ClipShape, GeneratedClip
from ccl_jax.data.contact_sheet import frame_strip, mel_image
from ccl_jax.storage.files import check_file, replacing

PAGE = 50
_QUALITY = 60


def write_gallery(
  data: epath.PathLike,
  output: epath.PathLike,
  *,
  splits: tuple[str, ...] = (),
  num: int = 10_000,
  frames: int = 6,
  height: int = 64,
  scores: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
  """Writes the page of a data set; returns the number of clips on it.

  Args:
    splits: to show; all if empty.
    num: clips, evenly chosen from those of each split.
    frames: of each clip.
    height: of a frame in pixels.
    scores: name of a file -> scores, which are shown.

  Raises:
    ValueError: no data set, or no such split.
    OSError: the output cannot be written.
  """
  output = check_file(output)
  every = records.list_examples(data, splits)
  num = min(num, len(every))
  chosen = [every[i * len(every) // num] for i in range(num)]
  metadata = records.list_buckets(data)
  shapes = {f: ClipShape.from_dict(x) for f, x in metadata.items()}
  codecs = Codecs.load(epath.Path(data) / "codecs")
  here = pathlib.Path(__file__)
  index, part = [], []
  with (
    replacing(output) as partial,
    partial.open("w", encoding="utf-8") as file,
  ):
    file.write(here.with_suffix(".html").read_text())
    for folder, split, i in tqdm.tqdm(chosen, "drawing", unit=" clips"):
      clip, shape = loader.read_clips(folder, split, 1, i), shapes[folder]
      latents = {s: clip[s] for s in STREAMS if clip[f"has_{s}"][0]}
      (decoded,) = decoding.decode_clips(latents, codecs, shape)
      part.append(dict(_pictures(decoded, frames, height)))
      about = {"shape": f"{shape}"} if len(shapes) > 1 else {}
      index.append(_describe(clip, split, scores or {}) | about)
      if len(part) == PAGE or len(index) == len(chosen):
        _write_json(file, f"part{(len(index) - 1) // PAGE}", part)
        part = []
    _write_json(file, "index", {"clips": index, "size": PAGE})
    file.write(here.with_name("gallery_script.html").read_text())
  return len(index)


def _describe(
  clip: Mapping[str, Any], split: str, scores: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
  (name,) = clip["name"]
  # A window of a.mp4 is a.mp4#t=0,5.
  own = scores.get(name) or scores.get(name.rpartition("#t=")[0]) or {}
  texts = {"name": name, "split": split, "caption": clip["caption"][0]}
  known = [
    f"{key}={value}"
    for key, value in own.items()
    if value is not None and key != "file" and not key.endswith("_hash")
  ]
  return texts | ({"scores": " ".join(known)} if known else {})


def _pictures(
  clip: GeneratedClip, frames: int, height: int
) -> Iterator[tuple[str, str]]:
  """Yields what a picture shows, and the picture."""
  width = 4 * height
  if clip.video is not None:
    strip = frame_strip(clip.video, frames, height)
    width = strip.shape[1]
    yield "frames", _encode(strip)
  if clip.mel is not None:
    yield "sound", _encode(mel_image(clip.mel, (height // 2, width)))


def _encode(image: UInt8[np.ndarray, "y x 3"]) -> str:
  """Returns a JPEG in base64."""
  data = io.BytesIO()
  Image.fromarray(image).save(data, "jpeg", quality=_QUALITY)
  return base64.b64encode(data.getvalue()).decode()


def _write_json(file: io.TextIOBase, name: str, value: Any) -> None:
  """Writes a script of data; "<" is escaped, so that no text can end it."""
  text = json.dumps(value).replace("<", "\\u003c")
  file.write(f'<script type="application/json" id="{name}">{text}</script>\n')
