"""Copies of the state in the hosts' memory, by Orbax's emergency manager.

If every row of the mesh's `data` axis holds the entire state, as slices do, all
rows but the first copy it to their hosts every few steps, without a bucket:

    row 0            keeps no copy; `manager` saves its state
    rows 1, 2, ...   keep the last copy; each host has the part of its devices

The folder is on each host's own memory disk, such as /dev/shm, and outlives the
processes. After a preemption, the newest copy that is complete in some row is
read there and sent to the other rows over the network between them.
"""

import pathlib
import shutil
import uuid

import jax
from etils import epath
from jax.sharding import Mesh, NamedSharding
from orbax.checkpoint import args, multihost
from orbax.checkpoint.experimental.emergency import checkpoint_manager as orbax

from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints import orbax_reader
from ccl_jax.params.sharding import axes_of
from ccl_jax.processes import distributed
from ccl_jax.storage import files

_READING = "reading"  # A file that is there while a copy is read.


def find_mesh(shapes: PyTree) -> Mesh:
  """Returns the mesh of a state that each row of `data` holds entirely.

  Args:
    shapes: ShapeDtypeStructs of the state, with shardings.

  Raises:
    ValueError: they have no mesh, or one whose rows lack a part of the state.
  """
  shardings = [x.sharding for x in jax.tree.leaves(shapes)]
  meshes = {s.mesh for s in shardings if isinstance(s, NamedSharding)}
  problem = "there is no mesh"
  if meshes:
    (mesh,) = meshes
    rows = [{d.process_index for d in row.flat} for row in mesh.devices]
    split = {axis for s in shardings for p in s.spec for axis in axes_of(p)}
    if len(rows) < 2:
      problem = f"mesh.data={len(rows)}"
    elif "data" in split:
      problem = "the rules of `sharding` split parameters over `data`"
    elif sum(len(row) for row in rows) > len(set().union(*rows)):
      problem = f"a process has devices of several of {len(rows)} rows"
    else:
      return mesh
  raise ValueError(
    f"checkpoint.emergency_folder, but {problem}: expected a mesh whose `data`"
    " axis joins slices that have all of the state, as --config=...:fsdp_over="
    "slice with --config.mesh.data=2 or more has. Else leave it empty."
  )


class EmergencyManager:
  """Manager of copies in host memory, from which a run can start again.

  All processes must make the same calls.

  Args:
    folder: of each host; in it the run has a folder of its own.
    workdir: of the run; its file `emergency_id` names that folder.
    shapes: ShapeDtypeStructs of the state, with shardings.

  Raises:
    ValueError: no such mesh, see `find_mesh`, or a folder that cannot be made.
  """

  def __init__(
    self,
    folder: epath.PathLike,
    workdir: epath.PathLike,
    shapes: PyTree,
  ):
    mesh = find_mesh(shapes)
    sizes = "x".join(str(size) for size in mesh.devices.shape)
    name = f"ccl_jax-{_run_id(epath.Path(workdir))}-{sizes}"
    self._folder = _claim(folder, name)
    self._shapes = shapes
    multihost.initialize_runtime_to_distributed_ids()
    multihost.initialize_distributed_to_device_ids()
    self._orbax = orbax.CheckpointManager(
      self._folder / "copies",
      # Nothing is saved there: that is the other manager's work.
      self._folder / "persistent",
      mesh,
      orbax_reader.without_empty(shapes),
      options=orbax.CheckpointManagerOptions(
        local=orbax.LocalCheckpointOptions(
          should_save_fn=lambda step, latest: True, max_to_keep=1
        ),
        persistent=orbax.PersistentCheckpointOptions(
          should_save_fn=lambda step, latest: False
        ),
      ),
    )

  def save(self, step: int, state: PyTree) -> None:
    """Copies the state, in the background."""
    state = args.PyTreeSave(orbax_reader.without_empty(state))
    self._orbax.save(step, args=args.Composite(state=state))

  def restore_newer(self, than: int) -> tuple[PyTree, int] | None:
    """Returns the newest copy and its step; None if it is not newer.

    A copy is not read again if a process ended while reading it.
    """
    step = self._orbax.latest_step()
    if step is None or step <= than:
      return None
    (self._folder / _READING).write_text(str(step))
    found = iter(jax.tree.leaves(self._orbax.restore(step).state))
    leaves, structure = jax.tree.flatten(self._shapes)
    state = structure.unflatten(
      jax.device_put(next(found), x.sharding)
      if x.size
      else orbax_reader.make_empty(x)
      for x in leaves
    )
    jax.block_until_ready(state)
    (self._folder / _READING).unlink()
    return state, int(step)

  def close(self) -> None:
    """Waits for a copy that is not finished."""
    self._orbax.close()


def _run_id(workdir: epath.Path) -> str:
  """Returns an id of this run, as another run may reuse its path."""
  path = workdir / "emergency_id"
  if distributed.is_lead() and not path.exists():
    with files.replacing(path) as partial:
      partial.write_text(uuid.uuid4().hex)
  distributed.barrier("the run has an id")
  return path.read_text()


def _claim(parent: epath.PathLike, name: str) -> pathlib.Path:
  """Makes a run's folder of this process, and removes those of other runs."""
  # Processes of one host share its memory disk, and may remove the same folder.
  folder = pathlib.Path(parent) / f"{name}-{jax.process_index()}"
  if (folder / _READING).exists():
    print(f"A process ended while it read {folder}, which is removed.")
    shutil.rmtree(folder)
  for each in folder.parent.glob("ccl_jax-*"):
    if not each.name.startswith(f"{name}-"):
      shutil.rmtree(each, ignore_errors=True)
  try:
    if files.is_remote(parent):
      raise OSError("it is in a bucket")
    for each in ("copies", "persistent"):
      (folder / each).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(
      f"checkpoint.emergency_folder={parent} of this host: {error}. Expected a"
      " folder, such as one in /dev/shm, that this user can write to."
    ) from error
  return folder
