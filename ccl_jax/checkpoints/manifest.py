"""The manifest of a checkpoint: size and digest of each of its files.

`checkpoints/STEP/files.json` has file -> {"bytes": N, "crc32": HEX}, so that a
lost, truncated or changed file is found before any array is read. Each host
computes, in threads, the digests of the files that it has written, and at
restore those of its share of all files: each file is read once more, by one
host. A CRC-32 detects every change within 32 successive bits, and misses one in
4 billion of other changes; it does not detect forgery.

Earlier versions wrote sizes alone.
"""

import functools
import json
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ccl_jax.checkpoints import orbax_reader
from ccl_jax.processes import distributed
from ccl_jax.storage import files, text_files

ITEM = "default"  # Orbax' name of the folder with a checkpoint's arrays
_MANIFEST = "files.json"
_PART = "files.process_{}.json"  # digests of the files of one process
_THREADS = 16
_READ_BYTES = 2**22


class DigestingHandler(ocp.StandardCheckpointHandler):
  """Orbax' handler, with the digests of what each process has written.

  A process writes its arrays to `ocdbt.process_N/`. Their digests are part of
  the save: it is finished, and gets its name, when they are there too.
  """

  async def async_save(
    self, directory: epath.Path, *args: Any, **kwargs: Any
  ) -> list[ocp.future.ChainedFuture]:
    """Saves as Orbax does; returns a future that ends with the digests."""
    written = await super().async_save(directory, *args, **kwargs)
    digest = functools.partial(_write_part, directory)
    return [ocp.future.ChainedFuture(written, digest)]


def make_registry() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
  """Returns what makes an Orbax manager save with `DigestingHandler`."""
  registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
  registry.add(ITEM, ocp.args.StandardSave, DigestingHandler())
  return registry


def write(folder: epath.Path, digests: bool = True) -> None:
  """Writes the manifest of a checkpoint, before that gets its final name.

  Args:
    folder: of the checkpoint, with what `DigestingHandler` has left there.
    digests: beside the sizes.
  """
  item = folder / ITEM
  entries = {name: {"bytes": n} for name, n in files.file_sizes(item).items()}
  if digests:
    parts = files.find(folder, _PART.format("*"))
    found = {}
    for part in parts:
      found |= json.loads(part.read_text())
    found |= compute_digests(item, entries.keys() - found.keys())
    for name, entry in entries.items():
      entry["crc32"] = found[name]
    for part in parts:
      part.unlink()
  text_files.write_json(folder / _MANIFEST, entries)


def check(folder: epath.Path, digests: bool = True) -> None:
  """Checks that the files are those that the manifest lists.

  Host 0 compares all sizes, and each host the digests of its share of the
  files. Files that the manifest does not list are not read, and no error.

  Args:
    digests: beside the sizes, where the manifest has them.

  Raises:
    BrokenError: files are lost, cut short or changed.
  """
  path = folder / _MANIFEST
  if not path.exists():
    return  # The manifest itself is lost: the rest may be complete.
  try:
    entries = _parse(json.loads(path.read_text()))
    damage = next(_find_damage(folder, entries, digests), None)
  except Exception as error:  # Damaged JSON, and each bucket's own types.
    raise orbax_reader.broken(folder, f"{_MANIFEST}: {error}") from error
  if damage:
    raise orbax_reader.broken(folder, damage)


def compute_digests(folder: epath.Path, names: Iterable[str]) -> dict[str, str]:
  """Returns name -> digest of files in a folder, which threads read."""
  names = list(names)
  with ThreadPoolExecutor(_THREADS) as pool:
    found = pool.map(lambda name: _digest(folder / name), names)
    return dict(zip(names, found, strict=True))


def _write_part(directory: epath.Path) -> None:
  """Writes the digests of this process's arrays beside the item's folder."""
  own = f"ocdbt.process_{jax.process_index()}"
  names = []  # none where others hold all that this process has
  if (directory / own).exists():
    names = [f"{own}/{name}" for name in files.file_sizes(directory / own)]
  digests = compute_digests(directory, names)
  part = _PART.format(jax.process_index())
  text_files.write_json(directory.parent / part, digests)


def _parse(entries: dict[str, Any]) -> dict[str, tuple[int, str | None]]:
  """Returns name -> (bytes, digest or None)."""
  return {
    name: (x, None) if isinstance(x, int) else (x["bytes"], x.get("crc32"))
    for name, x in entries.items()
  }


def _find_damage(
  folder: epath.Path, entries: dict[str, tuple[int, str | None]], digests: bool
) -> Iterator[str]:
  """Yields what is wrong with sizes and with this host's share of digests.

  The share are files in turn, from the largest on.
  """
  if distributed.is_lead():
    found = files.file_sizes(folder / ITEM)
    for name, (size, _) in entries.items():
      if name not in found:
        yield f"{name} is gone"
      elif found[name] != size:
        yield f"{name} has {found[name]} bytes of {size}"
  if not digests:
    return
  names = sorted(
    (name for name, (_, digest) in entries.items() if digest is not None),
    key=lambda name: (-entries[name][0], name),
  )[jax.process_index() :: jax.process_count()]
  for name, digest in compute_digests(folder / ITEM, names).items():
    if digest != entries[name][1]:
      yield f"{name} has changed since it was written"


def _digest(path: epath.Path) -> str:
  value = 0
  with path.open("rb") as file:
    while block := file.read(_READ_BYTES):
      value = zlib.crc32(block, value)  # which lets other threads run
  return f"{value:08x}"
