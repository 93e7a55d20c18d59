"""Replica groups in every notation, and the mesh axes that they span."""

import numpy as np
import pytest

from ccl_jax.cost.groups import axes_of, parse_groups

MESH = {"data": 2, "fsdp": 2, "context": 2}
ROWS = [[0, 1], [2, 3], [4, 5], [6, 7]]
COLUMNS = [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
  "text, expected",
  [
    ("{{0,1},{2,3},{4,5},{6,7}}", ROWS),
    ("[4,2]<=[8]", ROWS),
    ("[4,2]<=[2,4]T(1,0)", COLUMNS),
    ("[4,2]<=[2,2,2]T(1,2,0)", COLUMNS),
    ("mesh['a'=4,'b'=2] {'b'}", ROWS),
    ("mesh['a'=2,'b'=2,'c'=2] {'a'}", COLUMNS),
    ("mesh['a'=8] {'a':(1)2}", COLUMNS),
    ("mesh['a'=8] {'a':(4)2}", ROWS),
    ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", ROWS),
    ("mesh['a'=2,'b'=4], device_ids=(0,1,2,3,4,5,6,7) {'a'}", COLUMNS),
    ("mesh['a'=8] {'a'}", [list(range(8))]),
    ("mesh['a'=2,'b'=4]", [list(range(8))]),
  ],
)
def test_notations(text, expected):
  attributes = f"channel_id=1, replica_groups={text}, dimensions={{0}}"
  groups = parse_groups(attributes)
  assert sorted(sorted(g) for g in groups.tolist()) == expected


def test_pairs_of_a_permute_are_groups():
  groups = parse_groups("source_target_pairs={{0,1},{1,0}}, x=1")
  assert groups.tolist() == [[0, 1], [1, 0]]


def test_no_group_is_empty():
  assert parse_groups("replica_groups={}, to_apply=%add").size == 0


def test_other_notations_are_an_error():
  with pytest.raises(ValueError, match="cannot read"):
    parse_groups("replica_groups=<all>")


@pytest.mark.parametrize(
  "groups, axes",
  [
    (ROWS, ("context",)),
    (COLUMNS, ("data",)),
    ([[0, 2], [1, 3], [4, 6], [5, 7]], ("fsdp",)),
    ([[0, 1, 2, 3], [4, 5, 6, 7]], ("fsdp", "context")),
    ([[0, 3], [1, 2]], ("fsdp", "context")),
    ([list(range(8))], ("data", "fsdp", "context")),
    ([[0], [1]], ()),
  ],
)
def test_axes_are_those_that_differ(groups, axes):
  assert axes_of(np.array(groups), MESH) == axes
