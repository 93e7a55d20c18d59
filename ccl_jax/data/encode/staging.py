"""The folder in which a data set is made, perhaps by several runs of a program.

Until the data set is complete it is in DIR.partial, beside its final place DIR.
A bucket cannot rename folders: there it is in DIR itself, but lacks
metadata.json, without which nothing reads it as a data set. `plan.json`
describes what is being made: a run resumes only work with an equal plan.
"""

import enum
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Set
from typing import Any

from etils import epath
from flax.traverse_util import flatten_dict

from ccl_jax.storage import partial_files
from ccl_jax.storage.files import holds_other, is_remote
from ccl_jax.storage.text_files import read_json, write_json

_PLAN, _METADATA = "plan.json", "metadata.json"


class State(enum.Enum):
  """The state of the staging folder before a run."""

  ABSENT = enum.auto()  # nothing was started
  SAME_PLAN = enum.auto()  # the same data set was started
  OTHER_PLAN = enum.auto()  # another data set was started
  COMPLETE = enum.auto()  # the output exists
  FOREIGN = enum.auto()  # the files there are not ours


# State -> action without and with `force`. "start" removes what is there.
_ACTIONS = {
  State.ABSENT: ("start", "start"),
  State.SAME_PLAN: ("resume", "resume"),
  State.OTHER_PLAN: ("refuse", "start"),
  State.COMPLETE: ("refuse", "start"),
  State.FOREIGN: ("refuse", "refuse"),
}


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
  state = _find_state(output, plan, force)
  action = _ACTIONS[state][force]
  if action == "refuse":
    raise ValueError(_explain(state, output, plan))
  if action == "start":
    work.rmtree(missing_ok=True)
    write_json(work / _PLAN, plan)
  else:
    for pattern in (".*.partial", "*/.*.partial"):
      for path in work.glob(pattern):  # of a process that was killed
        partial_files.remove(pathlib.Path(path))


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


def _find_state(
  output: epath.Path, plan: Mapping[str, Any], force: bool
) -> State:
  work = staging_dir(output)
  started = _read_plan(work)
  if work != output:
    # With `force`, only the staging folder counts: `commit` replaces `output`.
    is_complete = output.exists() and not force
    is_foreign = holds_other(work, lambda names: _PLAN in names)
  else:
    has_metadata = (output / _METADATA).exists()
    is_complete = output.exists() and (started is None or has_metadata)
    is_foreign = False
  if is_foreign or holds_other(output, _is_data_set):
    return State.FOREIGN
  if is_complete:
    return State.COMPLETE
  if started is None:
    return State.ABSENT
  return State.SAME_PLAN if started == plan else State.OTHER_PLAN


def _is_data_set(names: Set[str]) -> bool:
  """Returns whether a folder with these names is a data set or part of one.

  Folders of clips may have a metadata.json too.
  """
  return _PLAN in names or {_METADATA, "codecs"} <= names


def _explain(state: State, output: epath.Path, plan: Mapping[str, Any]) -> str:
  """Returns the error message for a state in which nothing can be started."""
  work = staging_dir(output)
  if state is State.COMPLETE:
    return f"{output} exists: choose another, or replace it with --force."
  if holds_other(output, _is_data_set):
    return f"{output} exists and is no data set: choose another --output."
  if state is State.FOREIGN:
    return f"{work} is not an unfinished data set: move it away."
  return (
    f"{work} was started with other settings:"
    f" {_differences(_read_plan(work), plan)}. Use the same command to resume,"
    " or start anew with --force."
  )


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
