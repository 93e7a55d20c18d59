"""The folder in which a data set is made, perhaps by several runs of a program.

Until the data set is complete it is in DIR.partial, beside its final place DIR.
A bucket cannot rename folders: there it is in DIR itself, but lacks
metadata.json, without which nothing reads it as a data set. `plan.json`
describes what is being made: a run resumes only work with an equal plan.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Set
from typing import Any

from etils import epath
from flax.traverse_util import flatten_dict

from ccl_jax.storage import partial_files
from ccl_jax.storage.files import find, holds_other, is_remote
from ccl_jax.storage.text_files import read_json, write_json

_PLAN, _METADATA = "plan.json", "metadata.json"


def staging_dir(output: epath.PathLike) -> epath.Path:
  """Returns the folder of the data set `output` until it is complete."""
  output = epath.Path(output)
  if is_remote(output):
    return output
  return output.with_name(f"{output.name}.partial")


def open_output(
  output: epath.PathLike, plan: Mapping[str, Any], force: bool = False
) -> None:
  """Prepares `staging_dir(output)`: empty, or as an earlier run left it.

  Args:
    plan: nested dict of plain values.
    force: start anew where another plan was started, and replace `output` when
      the new data set is complete.

  Raises:
    ValueError: `output` exists, or another data set was started, and not
      `force`; or the folder holds files of something else.
  """
  output, work = epath.Path(output), staging_dir(output)
  plan = json.loads(json.dumps(plan))  # tuples become lists, as in the file
  _check_own(output, work)
  started = _read_plan(work)
  is_complete = output.exists()
  if work == output and started is not None:
    is_complete = (output / _METADATA).exists()
  if is_complete and not force:
    raise ValueError(
      f"{output} exists: choose another, or replace it with --force."
    )
  # What is complete on a disk stays until `commit`; in a bucket it is `work`.
  if started == plan and not (is_complete and work == output):
    for pattern in (".*.partial", "*/.*.partial"):
      for path in find(work, pattern):  # of a process that was killed
        partial_files.remove(pathlib.Path(path))
    return
  if started is not None and not force:
    raise ValueError(
      f"{work} was started with other settings: {_differences(started, plan)}."
      " Use the same command to resume, or start anew with --force."
    )
  work.rmtree(missing_ok=True)
  write_json(work / _PLAN, plan)


def check_visible(output: epath.PathLike) -> None:
  """Raises ValueError if this process does not see the lead's folder."""
  if _read_plan(staging_dir(output)) is None:
    raise ValueError(
      f"{staging_dir(output)} is not visible to all processes: --output must be"
      " in a bucket, or on a disk that they share."
    )


def commit(output: epath.PathLike) -> None:
  """Moves the complete data set to `output`."""
  work = staging_dir(output)
  if work == epath.Path(output):
    return
  if os.path.isdir(output):
    shutil.rmtree(output)
  os.replace(work, output)


def is_committed(output: epath.PathLike) -> bool:
  """Returns whether the data set is complete and at `output`."""
  output, work = epath.Path(output), staging_dir(output)
  if work == output:
    return (output / _METADATA).exists()
  return not work.exists()


def discard(output: epath.PathLike) -> None:
  """Removes what was started."""
  if _read_plan(staging_dir(output)) is not None:
    staging_dir(output).rmtree()


def _check_own(output: epath.Path, work: epath.Path) -> None:
  """Raises ValueError if either folder holds files of something else."""
  if holds_other(output, _is_data_set):
    raise ValueError(
      f"{output} exists and is no data set: choose another --output."
    )
  if work != output and holds_other(work, lambda names: _PLAN in names):
    raise ValueError(f"{work} is not an unfinished data set: move it away.")


def _is_data_set(names: Set[str]) -> bool:
  """Returns whether a folder with these names is a data set or part of one.

  Folders of clips may have a metadata.json too.
  """
  return _PLAN in names or {_METADATA, "codecs"} <= names


def _read_plan(work: epath.Path) -> dict[str, Any] | None:
  path = work / _PLAN
  return read_json(path) if path.exists() else None


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
  old, new = flatten_dict(old, sep="."), flatten_dict(new, sep=".")
  return "; ".join(
    f"{key} was {old.get(key)}, now it is {new.get(key)}"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
  )
