"""Splits of clips for which the captions name none."""

import pytest

from ccl_jax.data import records
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.data.encode.settings import EncodeSettings
from ccl_jax.data.encode.splits import assign_splits


def assign(names, fraction=0.02, **fields):
  files = [ClipFile(None, name, "A.", **fields) for name in names]
  return splits_of(files, fraction)


def splits_of(files, fraction=0.02, **settings):
  settings = EncodeSettings(validation_fraction=fraction, **settings)
  return {file.name: file.split for file in assign_splits(files, settings)}


@pytest.mark.parametrize("num", [2, 3, 10, 30])
def test_one_of_several_clips_is_held_out_whatever_their_names(num):
  for start in range(20):
    names = [f"{start}/{i}.mp4" for i in range(num)]
    splits = assign(names)
    assert set(splits.values()) == {"train", "validation"}
    assert assign(names[::-1]) == splits
    held_out = [x for x, split in splits.items() if split == "validation"]
    by_hash = [x for x in names if records.split_by_hash(x, 0.02) != "train"]
    lowest = min(names, key=records.hash_to_uniform)
    assert held_out == (by_hash or [lowest])


def test_many_clips_are_split_by_hash_alone():
  names = [f"{i}.mp4" for i in range(1000)]
  assert assign(names) == {x: records.split_by_hash(x, 0.02) for x in names}


def test_one_clip_is_left_for_training_too():
  for start in range(20):
    splits = assign([f"{start}/{i}.mp4" for i in range(3)], 0.99)
    assert set(splits.values()) == {"train", "validation"}


def test_the_rule_holds_only_where_it_is_needed():
  assert assign(["a"]) == {"a": "train"}
  assert set(assign("abc", 0.0).values()) == {"train"}
  assert set(assign("abc", split="test").values()) == {"test"}
  own = [ClipFile(None, "x", "A.", "validation")]
  files = own + [ClipFile(None, name, "A.") for name in "abc"]
  assert list(splits_of(files).values()) == ["validation"] + ["train"] * 3


def test_a_clip_that_will_be_left_out_does_not_count():
  names = sorted("abcdef", key=records.hash_to_uniform)
  files = [ClipFile(None, name, "A.") for name in names]
  files[0] = files[0]._replace(problem="is a link to nothing")
  files[1] = files[1]._replace(caption="")
  assert splits_of(files)[names[2]] == "validation"
  kept = splits_of(files, need_caption=False)
  assert kept[names[1]] == "validation" and kept[names[2]] == "train"
