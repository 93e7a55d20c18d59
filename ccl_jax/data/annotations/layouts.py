"""Reads annotation files of published data sets as `Annotation`s.

Each reader takes a file, or a folder of files, as its authors publish them. If
each split has a file, its stem is the split, such as train.csv.
"""

import math
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from absl import logging
from etils import epath

from ccl_jax.data.annotations.tables import (
  need,
  need_kind,
  number_rows,
  read_object,
)
from ccl_jax.data.encode.folder import list_files, list_with_tars
from ccl_jax.storage.text_files import read_text

_SPLITS = ("train", "val", "validation", "test")
_AIST_GENRES = {
  "gBR": "break dance", "gPO": "popping", "gLO": "locking", "gMH": "hip-hop",
  "gLH": "LA-style hip-hop", "gHO": "house dance", "gWA": "waacking",
  "gKR": "krump", "gJS": "street jazz", "gJB": "ballet jazz",
}  # fmt: skip

# Beginning of the name of a file -> the part of WavCaps that it is of.
_WAVCAPS_PARTS = {
  "as": "AudioSet_SL", "bbc": "BBC_Sound_Effects", "fsd": "FreeSound",
  "sb": "SoundBible",
}  # fmt: skip
_SECONDS = ("", "g", ".3f", ".6f")  # ways to write them in a file's name


class Annotation(NamedTuple):
  """What is said of one clip.

  Attributes:
    files: names that its file may have, with or without folders and suffix; the
      first that exists counts.
    captions: columns of captions.jsonl.
  """

  files: tuple[str, ...]
  captions: Mapping[str, Any]


def vggsound(path: epath.Path) -> Iterator[Annotation]:
  """Yields the annotations of vggsound.csv, which has no header."""
  for where, row in number_rows(path, ("id", "start", "label", "split")):
    name, start, label, split = row.values()
    first = 1000 * int(_number(start, where))
    names = _at(name, start, where)
    names = (names[0], f"{name}_{first}_{first + 10_000}", *names[1:])
    yield _annotate(*names, audio=label, split=split)


def audiocaps(path: epath.Path) -> Iterator[Annotation]:
  """Yields the annotations of train.csv, val.csv and test.csv."""
  for file in _files(path, ".csv"):
    for where, row in number_rows(file):
      if "file_name" in row:
        names = (_name(row["file_name"], where),)
        (text,) = need(row, where, "caption_1")
      else:
        name, start, text = need(
          row, where, "youtube_id", "start_time", "caption"
        )
        names = (f"Y{name}", *_at(name, start, where), name)
      yield _annotate(*names, audio=text, split=_split_of(file))


def wavcaps(path: epath.Path) -> Iterator[Annotation]:
  """Yields the annotations of *_final.json, less those of blacklist_*.json.

  Numbers are names in two of its parts, so each has its folder, PART_flac.
  """
  found = _files(path, ".json")
  lists = [file for file in found if file.name.startswith("blacklist")]
  blacklist = [
    (part, {str(x).removesuffix(".wav") for x in need_kind(list, names, file)})
    for file in lists
    for part, names in read_object(file).items()
  ]
  found = [file for file in found if file not in lists]
  for file in found:
    part = _WAVCAPS_PARTS.get(file.name.split("_")[0], "")
    ignored = [x for of, x in blacklist if not part or part.startswith(of)]
    ignored = set().union(*ignored)
    (rows,) = need(read_object(file), file, "data")
    for i, row in enumerate(need_kind(list, rows, f"{file}, 'data'"), 1):
      name, text = need(row, f"{file}, clip {i}", "id", "caption")
      name = str(name).removesuffix(".wav")
      if name not in ignored:
        names = [f"{part}_flac/{name}", f"{part}/{name}"]
        if not part or not name.isdigit() or len(found) == 1:
          names.append(name)
        yield _annotate(*names, audio=text)


def celebv(path: epath.Path) -> Iterator[Annotation]:
  """Yields the annotations of celebvhq_info.json, or of CelebV-Text's file."""
  info = read_object(path)
  meta = need_kind(dict, info.get("meta_info", {}), f"{path}, 'meta_info'")
  clips = need_kind(dict, info.get("clips", info), f"{path}, 'clips'")
  for key, clip in clips.items():
    where = f"{path}, '{key}'"
    clip = need_kind(dict, clip, where)
    attributes = need_kind(dict, clip.get("attributes"), where)
    words = []
    for kind in ("appearance", "action"):
      names = need_kind(list, meta.get(f"{kind}_mapping"), f"{path}, '{kind}'")
      flags = need_kind(list, attributes.get(kind), f"{where}, '{kind}'")
      if flags and len(flags) != len(names):
        raise ValueError(
          f"{where}: {len(flags)} values of '{kind}', expected {len(names)}."
        )
      words += [n for n, flag in zip(names, flags, strict=False) if flag]
    text = f"A person: {', '.join(words)}." if words else ""
    yield _annotate(key, video=text.replace("_", " "))


def avspeech(path: epath.Path) -> Iterator[Annotation]:
  """Yields the annotations of avspeech_train.csv and _test.csv (no header)."""
  for file in _files(path, ".csv"):
    for where, row in number_rows(file, ("id", "start", "end", "x", "y")):
      texts = row["start"], row["end"]
      times = [_number(text, where) for text in texts]
      names = [texts, *([f"{x:{form}}" for x in times] for form in _SECONDS)]
      names = ["_".join((row["id"], *own)) for own in names]
      yield _annotate(*names, split=_split_of(file))


def landscape(path: epath.Path) -> Iterator[Annotation]:
  """Yields the annotations of landscape.csv (ytid, start_time, class, set)."""
  for where, row in number_rows(path):
    name, start, text, split = need(
      row, where, "ytid", "start_time", "class", "set"
    )
    yield _annotate(*_at(name, start, where), name, audio=text, split=split)


def aist(path: epath.Path) -> Iterator[Annotation]:
  """Yields the names of the lists in splits/, less those of ignore_list.txt.

  A name, gWA_sFM_c01_d27_mWA2_ch21, is of a genre of dance.
  """
  lists = {file: read_text(file).split() for file in _files(path, ".txt")}
  ignored = {
    x for f, names in lists.items() if "ignore" in f.name for x in names
  }
  for file, names in lists.items():
    for name in names:
      if name in ignored:
        continue
      genre = _AIST_GENRES.get(name.split("_")[0], "")
      text = f"A dancer, {genre}." if genre else "A dancer."
      # Sequences are of all cameras, and files of one each.
      cameras = (name.replace("_cAll_", f"_c{i:02d}_") for i in range(1, 10))
      for each in dict.fromkeys(cameras):
        yield _annotate(each, video=text, split=_split_of(file))


def versebench(path: epath.Path) -> Iterator[Annotation]:
  """Yields the annotations of set1/NAME.json and others."""
  for file in _files(path, ".json"):
    row = read_object(file)
    video, audio = need(row, file, "video_prompt", "audio_prompt")
    audio = audio if isinstance(audio, list) else [audio]
    audio = [need_kind(str, text, f"{file}, 'audio_prompt'") for text in audio]
    speech = need_kind(dict, row.get("speech_prompt"), f"{file}, speech_prompt")
    yield _annotate(
      f"{file.parent.name}/{file.stem}",
      video=video,
      audio=" ".join(audio),
      speech=speech.get("text", ""),
    )


def javisbench(path: epath.Path) -> Iterator[Annotation]:
  """Yields the annotations of JavisBench.csv; generated files are numbered."""
  for i, (where, row) in enumerate(number_rows(path)):
    (text,) = need(row, where, "text")
    names = (row.get("path") or row.get("audio_path") or "", f"sample_{i:04d}")
    yield _annotate(*filter(None, names), text=text)


def mova(path: epath.Path) -> Iterator[Annotation]:
  """Yields the annotations of metadata.json (video_path, caption)."""
  return by_columns(path, {"file": "video_path", "text": "caption"})


def video2dataset(path: epath.Path) -> Iterator[Annotation]:
  """Yields the annotations of folders or tars of KEY.mp4, .txt and .json."""
  if not path.is_dir():
    raise ValueError(
      f"{path}: expected the folder that has 00000/ or 00000.tar."
    )
  found = list_with_tars(path)
  for name, file in found.items():
    if file.problem:
      logging.warning("%s %s.", path / name, file.problem)
  for name in sorted(found):
    key, suffix = posixpath.splitext(name)
    if suffix != ".json" or key.endswith("_stats"):
      continue
    row = read_object(found[name].path)
    if row.get("status", "success") == "success":
      caption = need_kind(str, row.get("caption"), f"{path / name}, 'caption'")
      if text := found.get(f"{key}.txt"):
        caption = read_text(text.path)
      yield _annotate(key, text=" ".join(caption.split()))


LAYOUTS: dict[str, Callable[[epath.Path], Iterator[Annotation]]] = {
  reader.__name__: reader
  for reader in (
    vggsound, audiocaps, wavcaps, celebv, avspeech, landscape, aist, versebench,
    javisbench, mova, video2dataset,
  )
}  # fmt: skip


def by_columns(
  path: epath.PathLike, columns: Mapping[str, str]
) -> Iterator[Annotation]:
  """Yields the annotations of any table; ValueError if a row lacks a column.

  Args:
    columns: column of captions.jsonl -> name of the table's column.
  """
  for where, row in number_rows(path):
    values = need(row, where, *columns.values())
    own = dict(zip(columns, values, strict=True))
    yield _annotate(_name(own.pop("file"), where), **own)


def _annotate(*files: str, **columns: Any) -> Annotation:
  """Returns the annotation of a clip, with the columns that have a value."""
  own = {k: x for k, x in columns.items() if x is not None and x != ""}
  return Annotation(files, own)


def _files(path: epath.Path, suffix: str) -> list[epath.Path]:
  """Returns the file, or those in a folder; ValueError if there is none."""
  if not path.is_dir():
    if not path.exists():
      raise ValueError(f"{path}: no such file or folder of annotations.")
    return [path]
  found = [path / name for name in sorted(list_files(path))]
  found = [file for file in found if file.suffix == suffix]
  if not found:
    raise ValueError(f"{path}: no {suffix} file in this folder of annotations.")
  return found


def _split_of(file: epath.Path) -> str:
  """Returns "train" for train.csv and avspeech_train.csv, else ""."""
  words = re.split(r"[\W_]+", file.stem.lower())
  return next((word for word in words if word in _SPLITS), "")


def _name(value: Any, where: str) -> str:
  """Returns the name of a clip, or a text that says that it is missing."""
  return f"no name in {where}" if value in (None, "") else str(value)


def _at(name: str, start: str, where: str) -> tuple[str, ...]:
  """Returns the names that tools give to the clip of a file from a time on."""
  whole = int(_number(start, where))
  return f"{name}_{whole:06d}", f"{name}_{start}", f"{name}_{whole}"


def _number(text: str, where: str) -> float:
  try:
    seconds = float(text)
  except (TypeError, ValueError):
    seconds = math.nan
  if not 0 <= seconds < math.inf:
    raise ValueError(f"{where}: {text!r} is no number of seconds from 0 on.")
  return seconds
