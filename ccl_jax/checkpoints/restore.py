"""Reading checkpoints: onto any mesh, in part, and only if they are whole.

Orbax writes `checkpoints/STEP/` and gives it its name when all is written;
`files.json` in it has the size of every file, so a file that is lost or cut
short is known before anything is read. Arrays are read straight into the
shardings that are asked for, each device's part by the host that has it, no
matter how many devices and hosts had written them.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ccl_jax import distributed, files, trees
from ccl_jax.array_types import PyTree

_SHOWN = 10  # lines of a difference
ITEM = "default"  # what Orbax calls the arrays of a checkpoint
_FILES = "files.json"


class BrokenError(Exception):
  """A checkpoint whose files are lost, cut short or unreadable."""


def steps(workdir: epath.PathLike) -> list[int]:
  """Steps of the finished checkpoints of a run, oldest first."""
  names = ocp.path.step.standard_name_format()
  found = names.find_all(epath.Path(workdir) / "checkpoints")
  return sorted(each.step for each in found)


def find(
  workdir: epath.PathLike, step: int | None = None
) -> tuple[epath.Path, int]:
  """Folder and step of a checkpoint; the newest, if `step` is None.

  Raises:
    ValueError: there is no such one.
  """
  found = steps(workdir)
  if not found or (step is not None and step not in found):
    raise ValueError(
      f"No checkpoint{'' if step is None else f' of step {step}'} in"
      f" '{workdir}/checkpoints'; it has {found or 'none'}."
    )
  step = found[-1] if step is None else step
  return epath.Path(workdir) / "checkpoints" / str(step), step


def read_state(folder: epath.Path, shapes: PyTree) -> PyTree:
  """The arrays of one checkpoint, as the leaves of `shapes`.

  Raises:
    ValueError: the checkpoint has other leaves, or some of another shape.
    BrokenError: it cannot be read.
  """
  leaves, structure = jax.tree.flatten(shapes)
  wanted = dict(zip(_paths(shapes), leaves, strict=True))
  saved = saved_shapes(folder)
  if saved != {path: leaf.shape for path, leaf in wanted.items()}:
    raise ValueError(
      f"'{folder}' is a checkpoint of another model:\n"
      + difference(saved, {path: leaf.shape for path, leaf in wanted.items()})
    )
  arrays = read(folder, wanted)
  return jax.tree.unflatten(structure, [arrays[path] for path in wanted])


def saved_shapes(folder: epath.Path) -> dict[str, tuple[int, ...]]:
  """Path -> shape of every array in a checkpoint; reads no array.

  Raises:
    BrokenError: its description cannot be read, or files are not as written.
  """
  if distributed.is_lead():
    _check_files(folder)
  tree = _saved_tree(folder)
  paths, leaves = _paths(tree), jax.tree.leaves(tree)
  return {p: tuple(x.shape) for p, x in zip(paths, leaves, strict=True)}


def read(
  folder: epath.Path, wanted: dict[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
  """Arrays of a checkpoint by path; the others are not read.

  Raises:
    BrokenError: an array cannot be read.
  """
  tree = _saved_tree(folder)
  paths, structure = _paths(tree), jax.tree.structure(tree)
  item = [wanted.get(path, ocp.PLACEHOLDER) for path in paths]
  how = [_restore_args(x) for x in item]
  arguments = ocp.args.PyTreeRestore(
    item=structure.unflatten(item), restore_args=structure.unflatten(how)
  )
  # The handler without a Checkpointer around it: that has barriers, where a
  # host that can read would wait forever for one that cannot.
  handler = ocp.PyTreeCheckpointHandler()
  try:
    found = handler.restore(_item(folder), args=arguments)
  except Exception as error:  # TensorStore raises what it likes.
    raise _broken(folder, error) from error
  arrays = dict(zip(paths, structure.flatten_up_to(found), strict=True))
  return {path: arrays[path] for path in wanted}


def difference(
  there: dict[str, tuple[int, ...]], here: dict[str, tuple[int, ...]]
) -> str:
  """Some lines on which paths only one side has, and which shapes differ."""
  lines = [f"  only there: {p} {there[p]}" for p in there if p not in here]
  lines += [f"  only here: {p} {here[p]}" for p in here if p not in there]
  lines += [
    f"  {p}: {there[p]} there, {here[p]} here"
    for p in there
    if p in here and there[p] != here[p]
  ]
  more = len(lines) - _SHOWN
  return "\n".join(lines[:_SHOWN] + ([f"  and {more} more"] * (more > 0)))


def read_params(
  workdir: epath.PathLike,
  shapes: PyTree,
  step: int | None = None,
  average: bool = True,
) -> tuple[PyTree, int]:
  """Parameters of a run, without the rest of its state, and their step.

  Args:
    shapes: nested dict of ShapeDtypeStructs; those without a sharding go to one
      device. Parameters of the run that it lacks are not read.
    step: of the checkpoint; None takes the newest.
    average: the moving average, where a parameter has one.

  Raises:
    ValueError: no such checkpoint, or a broken one; parameters that it lacks or
      has in another shape.
  """
  folder, step = find(workdir, step)
  wanted = trees.flatten(shapes)
  try:
    full = full_paths(folder, wanted, average)
    arrays = read(folder, {full[path]: x for path, x in wanted.items()})
  except BrokenError as error:
    raise ValueError(
      f"{error}. Of the steps {steps(workdir)} choose another."
    ) from error
  return trees.unflatten({path: arrays[full[path]] for path in wanted}), step


def initial_params(
  shapes: PyTree,
  sources: Sequence[tuple[str, epath.PathLike]],
  new: Sequence[str],
  average: bool = True,
) -> dict[str, jax.Array]:
  """Parameters of a new model that other runs have trained.

  Args:
    shapes: of the new model's parameters, with shardings.
    sources: (regex, workdir): parameters whose path matches are read from the
      newest checkpoint there; the first that matches.
    new: regexes of the parameters that no run has.
    average: read the moving average, where a parameter has one.

  Returns:
    Path -> array for the parameters of the sources.

  Raises:
    ValueError: a parameter that neither matches a source nor is named new, a
      pattern without a parameter; and as `read_params`.
  """
  rules = [*sources, *((regex, None) for regex in new)]
  origin = trees.flatten(trees.match(rules, shapes))
  leaves = trees.flatten(shapes)
  arrays = {}
  for workdir in {w: None for w in origin.values() if w is not None}:
    part = {p: x for p, x in leaves.items() if origin[p] == workdir}
    params, _ = read_params(workdir, trees.unflatten(part), average=average)
    arrays |= trees.flatten(params)
  return arrays


def full_paths(
  folder: epath.Path, wanted: dict[str, Any], average: bool
) -> dict[str, str]:
  """Where in a state each parameter lies.

  Args:
    wanted: path of a parameter -> what has its shape.
    average: in the moving average, where that has it.

  Raises:
    ValueError: a parameter that is not there, or in another shape.
    BrokenError: the checkpoint is.
  """
  saved, full = saved_shapes(folder), {}
  for half in ("frozen", "trainable", *(["ema"] if average else [])):
    full |= {p: f"{half}/{p}" for p in wanted if f"{half}/{p}" in saved}
  shapes = {path: saved[whole] for path, whole in full.items()}
  expected = {path: tuple(x.shape) for path, x in wanted.items()}
  if shapes != expected:
    raise ValueError(
      f"'{folder}' lacks parameters of this model:\n"
      + difference(shapes, expected)
    )
  return full


def record_files(folder: epath.Path) -> None:
  """Writes the sizes of the files of a checkpoint, just before it is named."""
  text = json.dumps(files.sizes(_item(folder)), indent=0, sort_keys=True)
  (folder / _FILES).write_text(text)


def _check_files(folder: epath.Path) -> None:
  """Raises BrokenError if files are lost or cut short."""
  if not (folder / _FILES).exists():
    return  # Lost itself; the rest may be whole, or Orbax will tell.
  try:
    written = json.loads((folder / _FILES).read_text())
    found = files.sizes(_item(folder))
  except (OSError, ValueError) as error:
    raise _broken(folder, f"{_FILES}: {error}") from error
  for name, size in written.items():
    if found.get(name) != size:
      state = (
        f"has {found[name]} bytes of {size}" if name in found else "is gone"
      )
      raise BrokenError(f"Checkpoint '{folder}' is broken: {name} {state}")


def _saved_tree(folder: epath.Path) -> PyTree:
  """What Orbax wrote about the arrays, in the structure of the state."""
  try:
    return ocp.PyTreeCheckpointHandler().metadata(_item(folder)).tree
  except Exception as error:  # Damaged JSON fails in many ways.
    raise _broken(folder, error) from error


def _item(folder: epath.PathLike) -> epath.Path:
  return files.absolute(folder) / ITEM


def _restore_args(leaf: Any) -> ocp.RestoreArgs:
  if leaf is ocp.PLACEHOLDER:
    return ocp.RestoreArgs()
  sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(
    jax.local_devices()[0]
  )
  return ocp.ArrayRestoreArgs(
    sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype
  )


def _paths(tree: PyTree) -> list[str]:
  """ "a/b/0" for every leaf; fields of tuples by name, as Orbax has them."""
  keys = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
  return [
    jax.tree_util.keystr(path, simple=True, separator="/") for path in keys
  ]


def _broken(folder: epath.Path, error: Exception | str) -> BrokenError:
  lines = str(error).strip().splitlines() or [type(error).__name__]
  reason = lines[0][:200]
  return BrokenError(f"Checkpoint '{folder}' is broken: {reason}")
