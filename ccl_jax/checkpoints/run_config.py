"""The config of a run, `config.json` of its workdir.

A workdir belongs to one config: a later start may change only keys that do not
affect the result, such as how often to log.
"""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from ccl_jax.config import ADDED, dotted, upgrade
from ccl_jax.processes import distributed
from ccl_jax.storage import text_files

_ABSENT = "absent"  # of a key that a config lacks


def read(workdir: epath.PathLike) -> dict[str, Any]:
  """Returns a run's config, in today's names; ValueError if it is no run."""
  path = epath.Path(workdir) / "config.json"
  if not path.exists():
    raise ValueError(f"No config.json in '{workdir}': not a training workdir.")
  return upgrade(text_files.read_json(path))


def claim(
  workdir: epath.PathLike,
  config: Mapping[str, Any],
  may_differ: tuple[str, ...],
) -> None:
  """Writes the config into `workdir`, if `check` lets it."""
  check(workdir, config, may_differ)
  distributed.barrier("every process has read the old config")
  if distributed.is_lead():
    text_files.write_json(epath.Path(workdir) / "config.json", config)
  distributed.barrier("the workdir is claimed")


def check(
  workdir: epath.PathLike,
  config: Mapping[str, Any],
  may_differ: tuple[str, ...],
) -> None:
  """Raises ValueError if the workdir belongs to a run of another config.

  Args:
    may_differ: keys and sections, dotted, that may change between starts of one
      run, such as how often to log.
  """
  if not (epath.Path(workdir) / "config.json").exists():
    return
  old = ADDED | dotted(read(workdir))
  new = ADDED | dotted(json.loads(json.dumps(config)))
  # Other keys of later versions are off where they are empty.
  old = {key: x for key, x in new.items() if x == []} | old
  changes = [
    f"{key}: {old.get(key, _ABSENT)} there, {new.get(key, _ABSENT)} now"
    for key in sorted(old.keys() | new.keys())
    if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    and not any(f"{key}.".startswith(f"{each}.") for each in may_differ)
  ]
  if changes:
    raise ValueError(
      f"workdir '{workdir}' belongs to a run of another config"
      f" ({'; '.join(changes)})."
      " Choose another --workdir, or the same config to resume."
    )
