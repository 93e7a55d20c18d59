"""A data set that is made over several runs of a program.

Until it is complete it lies beside its place, in DIR.partial; in a bucket,
where a folder cannot be renamed, it lies in its place and lacks metadata.json,
without which nobody takes it for a data set. `plan.json` says what is being
made: who goes on with it must be making the same.
"""

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from etils import epath

from ccl_jax.files import is_remote, replacing

_PLAN, _LAST = "plan.json", "metadata.json"


def place(output: epath.PathLike) -> epath.Path:
  """Where the data set `output` lies until it is complete."""
  output = epath.Path(output)
  if is_remote(output):
    return output
  return output.with_name(f"{output.name}.partial")


def prepare(
  output: epath.PathLike, plan: Mapping[str, Any], force: bool = False
) -> None:
  """Makes `place(output)` ready: as it was left, or empty.

  Args:
    plan: nested dict of plain values.
    force: start anew where another plan was begun, and replace `output` in the
      end.

  Raises:
    ValueError: `output` exists, or something else was begun, and not `force`.
  """
  output, work = epath.Path(output), place(output)
  plan = json.loads(json.dumps(plan))
  begun = _read(work)
  is_done = output.exists() and (work != output or _is_complete(output, begun))
  if is_done and not force:
    raise ValueError(
      f"{output} exists: choose another, or replace it: --force."
    )
  if work != output and begun is None and work.exists() and any(work.iterdir()):
    raise ValueError(f"{work} is not an unfinished data set: move it away.")
  if begun not in (None, plan) and not is_done and not force:
    raise ValueError(
      f"{work} was begun otherwise: {_differences(begun, plan)}. Go on with the"
      " same command, or start anew: --force."
    )
  if begun != plan or (is_done and work == output):
    work.rmtree(missing_ok=True)
    with replacing(work / _PLAN) as partial:
      partial.write_text(json.dumps(plan, indent=2) + "\n")
  else:
    for path in work.glob(".*.partial"):  # of a process that was killed
      path.unlink()


def check_seen(output: epath.PathLike) -> None:
  """Raises ValueError where what another process prepared is not seen."""
  if _read(place(output)) is None:
    raise ValueError(
      f"{place(output)} is not seen by all processes: --output must be in a"
      " bucket, or on a disk that they share."
    )


def publish(output: epath.PathLike) -> None:
  """`place(output)`, which is complete, becomes `output`."""
  work = place(output)
  if work == epath.Path(output):
    return
  if os.path.isdir(output):
    shutil.rmtree(output)
  os.replace(work, output)


def is_published(output: epath.PathLike) -> bool:
  """Whether what was prepared is complete, and in its place."""
  output, work = epath.Path(output), place(output)
  return (output / _LAST).exists() if work == output else not work.exists()


def discard(output: epath.PathLike) -> None:
  """Removes what was begun."""
  if _read(place(output)) is not None:
    place(output).rmtree()


def _read(work: epath.Path) -> dict[str, Any] | None:
  path = work / _PLAN
  return json.loads(path.read_text()) if path.exists() else None


def _is_complete(output: epath.Path, begun: dict | None) -> bool:
  """In a bucket; what no plan was left in is somebody's."""
  return begun is None or (output / _LAST).exists()


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
  old, new = _flat(old), _flat(new)
  return "; ".join(
    f"{key} was {old.get(key)}, now it is {new.get(key)}"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
  )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(tree, Mapping):
    return {prefix: tree}
  flat = {}
  for key, value in tree.items():
    flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
  return flat
