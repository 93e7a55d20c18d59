"""The files of annotations of published data sets -> `Annotation`s.

Each reader takes a file, or a folder of files, as its authors publish them. One
file of several splits' has the split as its stem, such as train.csv.
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from ccl_jax.data.annotations.tables import need, read_object, read_table
from ccl_jax.data.encode.folder import expand_tars, list_files
from ccl_jax.files import read_text

_SPLITS = ("train", "val", "validation", "test")
_AIST_GENRES = {
  "gBR": "break dance", "gPO": "popping", "gLO": "locking", "gMH": "hip-hop",
  "gLH": "LA-style hip-hop", "gHO": "house dance", "gWA": "waacking",
  "gKR": "krump", "gJS": "street jazz", "gJB": "ballet jazz",
}  # fmt: skip


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
  """Yields those of vggsound.csv: id, start, label, split, without a header."""
  header = ("id", "start", "label", "split")
  for row in read_table(path, header):
    start = _integer(row["start"], path)
    names = (
      f"{row['id']}_{start:06d}",
      f"{row['id']}_{1000 * start}_{1000 * (start + 10)}",
      f"{row['id']}_{start}",
    )
    yield Annotation(names, _columns(audio=row["label"], split=row["split"]))


def audiocaps(path: epath.Path) -> Iterator[Annotation]:
  """Yields those of train.csv, val.csv and test.csv."""
  for file in _files(path, ".csv"):
    for row in read_table(file):
      if "file_name" in row:
        names, text = (row["file_name"],), need(row, file, "caption_1")[0]
      else:
        name, start, text = need(
          row, file, "youtube_id", "start_time", "caption"
        )
        names = (f"Y{name}", f"{name}_{start}", name)
      yield Annotation(names, _columns(audio=text, split=_split_of(file)))


def wavcaps(path: epath.Path) -> Iterator[Annotation]:
  """Yields those of *_final.json, less those of blacklist_*.json."""
  found = _files(path, ".json")
  blacklist: set[str] = set()
  for file in found:
    if file.name.startswith("blacklist"):
      for names in read_object(file).values():
        blacklist |= {_without_wav(str(name)) for name in names}
  for file in found:
    if file.name.startswith("blacklist"):
      continue
    (rows,) = need(read_object(file), file, "data")
    for row in rows:
      name, text = need(row, file, "id", "caption")
      name = _without_wav(str(name))
      if name not in blacklist:
        yield Annotation((name,), _columns(audio=text))


def celebv(path: epath.Path) -> Iterator[Annotation]:
  """Yields those of celebvhq_info.json, or of CelebV-Text's likewise."""
  info = read_object(path)
  meta, clips = info.get("meta_info", {}), info.get("clips", info)
  for key, clip in clips.items():
    words = []
    attributes = clip.get("attributes", {}) if isinstance(clip, dict) else {}
    for kind in ("appearance", "action"):
      names, flags = meta.get(f"{kind}_mapping", ()), attributes.get(kind, ())
      words += [
        n.replace("_", " ") for n, f in zip(names, flags, strict=False) if f
      ]
    text = f"A person: {', '.join(words)}." if words else ""
    yield Annotation((key,), _columns(video=text))


def avspeech(path: epath.Path) -> Iterator[Annotation]:
  """Yields those of avspeech_train.csv and _test.csv, without a header."""
  for file in _files(path, ".csv"):
    for row in read_table(file, ("id", "start", "end", "x", "y")):
      times = [_number(row[key], file) for key in ("start", "end")]
      names = (
        "_".join((row["id"], row["start"], row["end"])),
        "_".join((row["id"], *(f"{time:.3f}" for time in times))),
        "_".join((row["id"], *(f"{time:.6f}" for time in times))),
      )
      yield Annotation(names, _columns(split=_split_of(file)))


def landscape(path: epath.Path) -> Iterator[Annotation]:
  """Yields those of landscape.csv: ytid, start_time, class, set."""
  for row in read_table(path):
    name, start, text, split = need(
      row, path, "ytid", "start_time", "class", "set"
    )
    names = (f"{name}_{start}", f"{name}_{_integer(start, path):06d}", name)
    yield Annotation(names, _columns(audio=text, split=split))


def aist(path: epath.Path) -> Iterator[Annotation]:
  """Yields those of the lists of names in splits/, less ignore_list.txt.

  A name, gWA_sFM_c01_d27_mWA2_ch21, is of a genre of dance.
  """
  found = _files(path, ".txt")
  lists = {file: file.read_text().split() for file in found}
  ignored = {
    x for f, names in lists.items() if "ignore" in f.name for x in names
  }
  for file, names in lists.items():
    if "ignore" in file.name:
      continue
    for name in names:
      if name in ignored:
        continue
      genre = _AIST_GENRES.get(name.split("_")[0], "")
      text = f"A dancer, {genre}." if genre else "A dancer."
      # Sequences are of all cameras, and files of one each.
      cameras = (name.replace("_cAll_", f"_c{i:02d}_") for i in range(1, 10))
      for each in dict.fromkeys(cameras):
        yield Annotation((each,), _columns(video=text, split=_split_of(file)))


def versebench(path: epath.Path) -> Iterator[Annotation]:
  """Yields those of set1/NAME.json and others."""
  for file in _files(path, ".json"):
    row = read_object(file)
    video, audio = need(row, file, "video_prompt", "audio_prompt")
    speech = row.get("speech_prompt") or {}
    audio = " ".join(audio) if isinstance(audio, list) else audio
    own = _columns(video=video, audio=audio, speech=speech.get("text", ""))
    yield Annotation((f"{file.parent.name}/{file.stem}",), own)


def javisbench(path: epath.Path) -> Iterator[Annotation]:
  """Yields those of JavisBench.csv; generated files have the row's number."""
  for i, row in enumerate(read_table(path)):
    (text,) = need(row, path, "text")
    names = (row.get("path") or row.get("audio_path") or "", f"sample_{i:04d}")
    yield Annotation(tuple(filter(None, names)), _columns(text=text))


def mova(path: epath.Path) -> Iterator[Annotation]:
  """Yields those of metadata.json: video_path and caption."""
  for row in read_table(path):
    name, text = need(row, path, "video_path", "caption")
    yield Annotation((name,), _columns(text=text))


def video2dataset(path: epath.Path) -> Iterator[Annotation]:
  """Yields those of the folders or tars with KEY.mp4, KEY.txt and KEY.json."""
  if not path.is_dir():
    raise ValueError(
      f"{path}: expected the folder that has 00000/ or 00000.tar."
    )
  found = list_files(path)
  members = expand_tars(path, found)
  for name in sorted(found):
    key, suffix = posixpath.splitext(name)
    if suffix != ".json" or key.endswith("_stats"):
      continue
    row = read_object(members.get(name, path / name))
    if row.get("status", "success") == "success":
      caption, text = row.get("caption") or "", f"{key}.txt"
      if text in found:
        caption = read_text(members.get(text, path / text))
      own = _columns(text=" ".join(caption.split()))
      yield Annotation((key,), own)


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
  """Yields those of any table.

  Args:
    columns: column of captions.jsonl -> name of the table's column.

  Raises:
    ValueError: a row lacks one of them.
  """
  for i, row in enumerate(read_table(path), 1):
    values = need(row, f"{path}, row {i}", *columns.values())
    own = dict(zip(columns, values, strict=True))
    yield Annotation((str(own.pop("file")),), _columns(**own))


def _columns(**values: Any) -> dict[str, Any]:
  """Returns the columns that have a value."""
  return {k: x for k, x in values.items() if x is not None and x != ""}


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


def _without_wav(name: str) -> str:
  return name.removesuffix(".wav")


def _number(text: str, path: epath.Path) -> float:
  try:
    return float(text)
  except ValueError as error:
    raise ValueError(f"{path}: {text!r} is no number of seconds.") from error


def _integer(text: str, path: epath.Path) -> int:
  return int(_number(text, path))
