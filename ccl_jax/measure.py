r"""Measures clips by the metrics of the field, whoever made them:

    python -m ccl_jax.measure --clips=OUT --output=DIR \
        [--metrics=sound,loudness,wer,sync] [--weights=FOLDER] [--reference=GT]

`ccl_jax/metrics/real/README.md` lists the metrics, their packages and their
weights; a metric that lacks one of these has a line "not run: ..." in the
table. Captions are read as by `ccl_jax.encode`; words that should be spoken are
in quotes.

Writes scores.jsonl (a line for each clip), table.md and protocol.json
(versions, hashes of weights, settings, clips that are left out and why); with
--reference also reference.jsonl. The same command resumes, and measures only
what is not measured yet.
"""

import json
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import av
from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.data.encode.left_out import describe_reasons
from ccl_jax.metrics.real import report
from ccl_jax.metrics.real.measuring import MeasuredFolder, measure_folder
from ccl_jax.metrics.real.metric import (
  FPS,
  SAMPLE_RATE,
  Options,
  versions,
)
from ccl_jax.metrics.real.registry import (
  METRICS,
  OpenedMetrics,
  check_names,
  open_metrics,
)
from ccl_jax.metrics.real.rows import Features, RowFile
from ccl_jax.metrics.real.transcribers import TRANSCRIBERS
from ccl_jax.storage.files import is_remote, replacing
from ccl_jax.storage.text_files import parse_object, read_text, write_json

CLIPS = flags.DEFINE_string(
  "clips", None, "Folder of clips to measure: mp4, wav and others."
)
OUTPUT = flags.DEFINE_string(
  "output", None, "Folder on a disk for the results."
)
NAMES = flags.DEFINE_list(
  "metrics", list(METRICS), "Metrics, separated by commas; all by default."
)
WEIGHTS = flags.DEFINE_string(
  "weights", None, "Folder of the weights that are in no package."
)
REFERENCE = flags.DEFINE_string(
  "reference", None, "Folder of true clips, for distances between sets and to"
  " be measured beside."
)  # fmt: skip
CAPTIONS = flags.DEFINE_string(
  "captions", None, "File of captions; those in --clips by default."
)
ASR = flags.DEFINE_enum(
  "asr", "pocketsphinx", list(TRANSCRIBERS), "Who writes down what is said."
)
FACES = flags.DEFINE_string(
  "faces", "", "Function that finds faces, MODULE:FUNCTION; none by default."
)
MAX_SECONDS = flags.DEFINE_float(
  "max_seconds", 60.0, "Seconds of the longest clip that is not left out.",
  lower_bound=0.1,
)  # fmt: skip


def main() -> None:
  """Measures clips and writes the results; ValueError for a wrong flag."""
  check_names(NAMES.value)
  output = _local_folder("output", OUTPUT.value)
  weights = WEIGHTS.value and _local_folder("weights", WEIGHTS.value)
  if weights and not weights.is_dir():
    raise ValueError(f"--weights={weights}: no such folder.")
  folders = {"scores": CLIPS.value, "reference": REFERENCE.value}
  for name in filter(None, folders.values()):
    if not epath.Path(name).is_dir():
      raise ValueError(f"'{name}' is no folder of clips.")
  opened = open_metrics(NAMES.value, Options(weights, ASR.value, FACES.value))
  protocol, features = describe(opened), Features(output / "features")
  stale = find_stale(output / "protocol.json", protocol)
  measured = {
    kind: measure_folder(
      folder,
      RowFile(output / f"{kind}.jsonl", stale),
      features,
      opened.scorers,
      captions=CAPTIONS.value if kind == "scores" else None,
      max_seconds=MAX_SECONDS.value,
      title=kind,
      start=lambda: write_json(output / "protocol.json", protocol),
    )
    for kind, folder in folders.items()
    if folder
  }
  table = tabulate(opened, measured, features)
  with replacing(output / "table.md") as partial:
    partial.write_text(table)
  for kind, found in measured.items():
    protocol[kind] = {"clips": len(found.rows), "left_out": found.left_out}
  write_json(output / "protocol.json", protocol)
  print(f"{table}\n{len(measured['scores'].rows)} clips; all in {output}")
  for kind, found in measured.items():
    if found.left_out:
      print(f"Left out of {folders[kind]}:\n{describe_reasons(found.left_out)}")


def describe(opened: OpenedMetrics) -> dict[str, Any]:
  """Returns the protocol: what has made the scores, all of it plain values."""
  libraries = {k: ".".join(map(str, v)) for k, v in av.library_versions.items()}
  return {
    "decoder": {
      "library": f"PyAV {av.__version__}",
      "ffmpeg": libraries,
      "pictures": f"{FPS} fps, by time stamp, at the size of the file",
      "sound": f"{SAMPLE_RATE} Hz, mono, as long as the pictures",
    },
    "packages": {"python": platform.python_version(), **versions("numpy")},
    "metrics": {name: dict(x.protocol) for name, x in opened.scorers.items()},
    "not_run": opened.not_run,
  }


def find_stale(path: pathlib.Path, protocol: dict[str, Any]) -> set[str]:
  """Returns what the run of the protocol at `path` has measured otherwise.

  Metrics that are not measured now stay; they are added to the protocol.
  """
  if not path.exists():
    return set()
  try:
    old = parse_object(read_text(path))
  except ValueError as error:
    raise ValueError(f"'{path}': {error} Remove it to begin anew.") from error
  if old.get("decoder") != protocol["decoder"]:
    return set(METRICS)
  before = old.get("metrics", {})
  now = json.loads(json.dumps(protocol["metrics"]))  # tuples become lists
  protocol["metrics"] = before | now
  return {k for k in now if before.get(k) != now[k]}


def tabulate(
  opened: OpenedMetrics,
  measured: Mapping[str, MeasuredFolder],
  features: Features,
) -> str:
  """Returns the table of all metrics that were asked for, in Markdown."""
  chosen = {name: METRICS[name] for name in NAMES.value}
  found = {
    kind: {
      name: report.summarize(name, chosen[name], folder.rows)
      for name in opened.scorers
    }
    for kind, folder in measured.items()
  }
  rows = measured["scores"].rows
  if "reference" in measured:
    for name in opened.scorers:
      found["scores"][name] |= report.compare(
        name, chosen[name], rows, measured["reference"].rows, features
      )
  return report.make_table(
    chosen, found["scores"], found.get("reference"), rows, opened.not_run
  )


def _local_folder(flag: str, path: str) -> pathlib.Path:
  """Returns the path; ValueError if it is in a bucket."""
  if is_remote(path):
    raise ValueError(f"--{flag}={path}: expected a folder on a disk.")
  return pathlib.Path(path)


if __name__ == "__main__":
  command.run(main, ("clips", "output"))
