"""The groups of devices that communicate in a collective.

Members are positions in the mesh's flat order. HLO writes the groups as

    {{0,1},{2,3}}                    listed
    [2,2]<=[4]                       0..3 in rows of (groups, members)
    [2,2]<=[2,2]T(1,0)               0..3 in a shape, axes permuted, in rows
    mesh['a'=2,'b'=2] {'b'}          along axes of the compiler's own mesh
    mesh['a'=4] {'a':(2)2}           a part of one: 2 before it, 2 in it
    mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'b'}      or ([2,2]T(1,0))
"""

import math
import re
from collections.abc import Mapping

import numpy as np

_KEY = r"(?:replica_groups|source_target_pairs)="
_LISTED = re.compile(_KEY + r"(\{(?:\{[\d,]*\},?)*\})")
_COUNTED = re.compile(_KEY + r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
  _KEY + r"mesh\[([^\]]*)\]"
  r"(?:, device_ids=\((?:([\d,]+)|\[([\d,]+)\](?:T\(([\d,]+)\))?)\))?"
  r"(?: \{([^}]*)\})?"
)


def axes_of(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
  """Returns the axes of the mesh in which members of a group differ.

  Raises:
    ValueError: a position outside of the mesh.
  """
  sizes = tuple(mesh.values())
  if groups.size and groups.max() >= math.prod(sizes):
    raise ValueError(
      f"a group holds device {groups.max()}, but {dict(mesh)=} has"
      f" {math.prod(sizes)}: pass the mesh that the program was compiled for."
    )
  places = np.stack(np.unravel_index(groups, sizes), -1)
  differs = (places != places[:, :1]).any((0, 1))
  return tuple(a for a, d in zip(mesh, differs, strict=True) if d)


def parse_groups(attributes: str) -> np.ndarray:
  """Returns the groups in an op's attributes, (groups, members).

  `replica_groups={}` is an array of size 0.

  Raises:
    ValueError: another notation, or groups of unequal size.
  """
  if match := _COUNTED.search(attributes):
    return _counted(*match.groups()[1:]).reshape(_numbers(match[1]))
  if match := _MESH.search(attributes):
    return _along(*match.groups())
  match = _LISTED.search(attributes)
  rows = re.findall(r"\{([\d,]+)\}", match[1]) if match else []
  listed = [_numbers(row) for row in rows]
  if match is None or len({len(row) for row in listed}) > 1:
    raise ValueError(f"cannot read the groups of {attributes[:200]!r}.")
  return np.array(listed, int).reshape(len(listed), -1 if listed else 0)


def _counted(shape: str, order: str | None) -> np.ndarray:
  ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
  return ids.transpose(_numbers(order)) if order else ids


def _along(mesh, ids, shape, order, chosen) -> np.ndarray:
  """Returns groups along (parts of) axes of `mesh`, "'a'=2,'b'=2"."""
  sizes = {k: int(v) for k, v in (axis.split("=") for axis in mesh.split(","))}
  if ids:
    devices = np.array(_numbers(ids))
  elif shape:
    devices = _counted(shape, order)
  else:
    devices = np.arange(math.prod(sizes.values()))
  parts = _parts(sizes, chosen)
  dims, grouped = [], []
  for name, size in sizes.items():
    before = 1
    for pre, n in sorted(parts.get(name, [])):
      dims += [pre // before, n]
      grouped.append(len(dims) - 1)
      before = pre * n
    dims.append(size // before)
  members = math.prod(dims[i] for i in grouped)
  apart = [i for i in range(len(dims)) if i not in grouped]
  return devices.reshape(dims).transpose(apart + grouped).reshape(-1, members)


def _parts(sizes, chosen) -> dict[str, list[tuple[int, int]]]:
  """Returns axis -> its grouped parts (size before it, size of it).

  `chosen` names the axes, None all of them.
  """
  if chosen is None:
    return {name: [(1, size)] for name, size in sizes.items()}
  parts: dict[str, list[tuple[int, int]]] = {}
  for item in chosen.split(","):
    name, _, part = item.partition(":")
    pre, n = part[1:].split(")") if part else (1, sizes[name])
    parts.setdefault(name, []).append((int(pre), int(n)))
  return parts


def _numbers(text: str) -> list[int]:
  return [int(n) for n in text.split(",")]
