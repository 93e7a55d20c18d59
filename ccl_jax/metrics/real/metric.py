"""The interface of a metric of real clips.

A metric is a row of `registry.METRICS`. `open` loads its packages and weights
once and returns a `Scorer`, or raises `NotRunError`, whose message says what to
do; the other metrics still run. `Scorer.measure` returns the scores of a clip,
or raises `NotMeasuredError`: such clips are counted by reason and left out of
means.
"""

import hashlib
import importlib
import importlib.metadata
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

FPS = 25.0  # of the pictures that every metric gets
SAMPLE_RATE = 16_000  # of the sound, which is mono
Scores = Mapping[str, Any]  # of a clip, by name


class NotRunError(Exception):
  """A metric that cannot run here; the message says what to do."""


class NotMeasuredError(Exception):
  """A clip for which a metric has no value; the message says why."""


class MeasuredClip(NamedTuple):
  """One clip, decoded: pictures at `FPS`, mono sound at `SAMPLE_RATE`.

  Attributes:
    name: relative to the folder of the clips; of a segment with its times.
    caption: its prompt, "" without one.
    video: at the size of the file; None if it has no pictures.
    audio: as long as the pictures; None if it has no sound.
    clipped: share of the samples that are cut off in the file.
  """

  name: str
  caption: str = ""
  video: UInt8[np.ndarray, "t y x 3"] | None = None
  audio: Float[np.ndarray, " s"] | None = None
  clipped: float = 0.0


class Options(NamedTuple):
  """What the user chose.

  Attributes:
    weights: folder of all weights that are not in packages.
    asr: speech recogniser, a key of `transcribers.TRANSCRIBERS`.
    faces: "module:function" that finds faces, see `faces`; "" for none.
  """

  weights: pathlib.Path | None = None
  asr: str = "pocketsphinx"
  faces: str = ""

  def find(self, *names: str) -> pathlib.Path:
    """Returns the first of these among the weights, else raises NotRunError."""
    for name in names:
      if self.weights is not None and (self.weights / name).exists():
        return self.weights / name
    raise NotRunError(f"put {' or '.join(names)} into --weights=FOLDER")


class Scorer(NamedTuple):
  """A metric that is ready to run.

  Attributes:
    measure: clip -> its scores, numbers or texts, and perhaps "features", an
      array for `Metric.compare`.
    protocol: versions, hashes of weights and settings, all plain values.
  """

  measure: Callable[[MeasuredClip], dict[str, Any]]
  protocol: Mapping[str, Any] = types.MappingProxyType({})


class Column(NamedTuple):
  """A score in the table: its unit, and whether "higher" or "lower" is better.

  `better` is "" where neither is.
  """

  unit: str = ""
  better: str = ""


class Metric(NamedTuple):
  """A metric of clips.

  Attributes:
    needs: streams without which a clip is not measured.
    columns: name of a score -> how it is shown; its mean is over clips.
    open: loads what it needs.
    totals: scores of all clips -> further columns, such as a corpus' rate.
    compare: features of the clips (n, d) and of the reference (m, d) -> further
      columns; None if the metric has no features.
  """

  needs: tuple[str, ...]
  columns: Mapping[str, Column]
  open: Callable[[Options], Scorer]
  totals: Callable[[Sequence[Scores]], dict[str, float]] | None = None
  compare: Callable[[np.ndarray, np.ndarray], dict[str, float]] | None = None


def require(module: str, install: str) -> Any:
  """Returns an optional package's module.

  Args:
    install: what pip installs.

  Raises:
    NotRunError: it is not installed, or cannot be imported.
  """
  try:
    return importlib.import_module(module)
  except Exception as error:  # Broken packages raise almost anything.
    reason = "" if isinstance(error, ImportError) else f" ({_one_line(error)})"
    raise NotRunError(f"pip install {install}{reason}") from error


def versions(*packages: str) -> dict[str, str]:
  """Returns package -> installed version."""
  return {name: importlib.metadata.version(name) for name in packages}


def file_hash(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file, or of all files of a folder in order."""
  digest = hashlib.sha256()
  inside = sorted(path.rglob("*")) if path.is_dir() else [path]
  for file in inside:
    if file.is_file():
      digest.update(file.name.encode())
      with file.open("rb") as stream:
        while block := stream.read(2**20):
          digest.update(block)
  return digest.hexdigest()


def _one_line(error: Exception) -> str:
  return " ".join(f"{type(error).__name__}: {error}".split())[:200]
