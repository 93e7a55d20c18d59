"""Data sets on disk, as we and as TFDS read them."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ccl_jax.codecs.api import Codecs
from ccl_jax.data import records, shards
from tests.data import clips


@pytest.fixture(scope="module")
def codecs():
  return clips.codecs()


@pytest.mark.parametrize("name", ["data", "set [v1] *?"])
def test_round_trip(tmp_path, codecs, name):
  tmp_path = tmp_path / name
  silent = clips.example(codecs, 1, audio=None)
  held_out = clips.example(codecs, 2, split="validation")
  examples = [clips.example(codecs, 0), silent, held_out]
  clips.write_records(tmp_path / "data", codecs, examples)

  train = records.open_split(tmp_path / "data", "train")
  assert len(train) == 2
  first = train[0]
  for name in ("video", "audio", "text"):
    assert first[name].dtype == np.float16
    expected = getattr(examples[0], name)
    np.testing.assert_array_equal(first[name], expected.astype(np.float16))
  assert (first["name"], first["caption"]) == ("clip 0", "A disc, 0.")
  assert first["has_video"] and first["has_audio"]
  assert train[1]["has_video"] and not train[1]["has_audio"]
  assert train[1]["audio"].shape == (1, 6)
  assert not train[1]["audio"].any()

  metadata = records.read_metadata(tmp_path / "data")
  assert metadata["counts"] == {"train": 2, "validation": 1}
  assert metadata["shapes"] == {
    "video": [2, 2, 3, 8], "audio": [10, 6], "text": [6, 8],
  }  # fmt: skip
  assert metadata["logvar"] == []
  loaded = Codecs.load(tmp_path / "data" / "codecs")
  np.testing.assert_array_equal(loaded.video.basis, codecs.video.basis)


def test_tfds_reads_the_same(tmp_path, codecs):
  examples = [
    clips.example(codecs, 0),
    clips.example(codecs, 1, audio=None),
    clips.example(codecs, 2, video=None),
  ]
  examples = [e._replace(audio_logvar=e.audio) for e in examples]
  clips.write_records(tmp_path / "data", codecs, examples, logvar=["audio"])
  ours = records.open_split(tmp_path / "data", "train")
  theirs = tfds.builder_from_directory(tmp_path / "data").as_data_source(
    "train"
  )
  assert len(ours) == len(theirs) == 3
  for one, other in zip(ours, theirs, strict=True):
    for name in ("video", "audio", "audio_logvar", "text"):
      np.testing.assert_array_equal(one[name], other[name])
    assert one["name"] == other["name"].decode()
    assert one["has_audio"] == other["has_audio"]


def test_a_shard_without_examples_is_as_if_it_were_not_there(tmp_path, codecs):
  """All clips of a shard may be bad, and all of a split."""
  schema = shards.RecordSchema.from_codecs(codecs, clips.SHAPE)
  counts = {("train", 0): 0, ("train", 1): 2, ("train", 2): 0, ("odd", 0): 0}
  for (split, index), count in counts.items():
    with shards.writing_shard(tmp_path, schema, split, index) as shard:
      for i in range(count):
        shard.add(clips.example(codecs, i))
  records.finalize(tmp_path, schema, codecs, clips.SHAPE)
  assert records.read_metadata(tmp_path)["counts"] == {"train": 2}
  names = [e["name"] for e in records.open_split(tmp_path, "train")]
  assert names == ["clip 0", "clip 1"]
  theirs = tfds.builder_from_directory(tmp_path).as_data_source("train")
  assert [e["name"].decode() for e in theirs] == names


def test_splits_go_on_in_further_files(tmp_path, codecs):
  examples = [clips.example(codecs, i) for i in range(5)]
  clips.write_records(tmp_path / "data", codecs, examples, clips_per_shard=2)
  assert len(list((tmp_path / "data").glob("ccl-train.array_record-*"))) == 3
  split = records.open_split(tmp_path / "data", "train")
  assert [e["name"] for e in split] == [f"clip {i}" for i in range(5)]


def test_split_by_hash_is_stable_and_has_the_share_asked_for():
  names = [f"{i}.mp4" for i in range(2000)]
  held_out = {n for n in names if records.split_by_hash(n, 0.1) == "validation"}
  assert 150 < len(held_out) < 250
  more = {n for n in names if records.split_by_hash(n, 0.2) == "validation"}
  assert held_out < more
  assert records.split_by_hash("0.mp4", 0.0) == "train"
  # Fixed for ever: a data set that is encoded again has the same splits.
  first = [
    n for n in names[:12] if records.split_by_hash(n, 0.3) == "validation"
  ]
  assert first == ["0.mp4", "7.mp4", "8.mp4", "9.mp4", "11.mp4"]


def bad(kind, codecs):
  example = clips.example(codecs, 0)
  video = example.video.copy()
  if kind == "nan":
    video[0, 0, 0, 0] = np.nan
  elif kind == "too large":
    video[0, 0, 0, 0] = 1e6
  elif kind == "shape":
    video = video[1:]
  elif kind == "rank":
    video = video[0]
  elif kind == "shifted":
    video = video + 3
  elif kind == "scaled":
    video = video * 10
  return example._replace(video=video)


@pytest.mark.parametrize(
  ("kind", "reason"),
  [
    ("nan", "clip 0: video has values that are not finite"),
    ("too large", "not finite"),
    ("shape", r"shape \(1, 2, 3, 8\), expected \(2, 2, 3, 8\)"),
    ("rank", r"shape \(2, 3, 8\)"),
    ("shifted", "video latents have mean"),
    ("scaled", "and deviation"),
  ],
)
def test_bad_latents_are_refused_and_nothing_is_left(
  tmp_path, codecs, kind, reason
):
  """No shard is left of latents that do not fit, and never a data set."""
  examples = [bad(kind, codecs)]
  with pytest.raises(ValueError, match=reason):
    clips.write_records(tmp_path / "data", codecs, examples)
  assert not (tmp_path / "data" / "metadata.json").exists()
  if kind not in ("shifted", "scaled"):
    assert not list((tmp_path / "data").iterdir())


def test_no_examples_are_refused_and_nothing_is_left(tmp_path, codecs):
  with pytest.raises(ValueError, match="no examples"):
    clips.write_records(tmp_path / "data", codecs, [])
  assert not (tmp_path / "data" / "metadata.json").exists()


def test_missing_files_are_an_error(tmp_path, codecs):
  """Of a copy that was not finished, say; nothing is lost silently."""
  clips.write_records(tmp_path, codecs, [clips.example(codecs, 0)])
  (shard,) = tmp_path.glob("ccl-train.*")
  shard.unlink()
  with pytest.raises(ValueError, match=r"has 0 clips of 'train' in 0 files"):
    records.open_split(tmp_path, "train")


def test_absent_data_and_splits_are_errors(tmp_path, codecs):
  with pytest.raises(ValueError, match="not encoded data"):
    records.read_metadata(tmp_path)
  examples = [clips.example(codecs, i) for i in range(4)]
  clips.write_records(tmp_path / "data", codecs, examples)
  with pytest.raises(ValueError, match=r"No split 'easy'.*'train': 4"):
    records.open_split(tmp_path / "data", "easy")


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_damaged_records_are_named(tmp_path, codecs, damage):
  examples = [clips.example(codecs, i) for i in range(3)]
  clips.write_records(tmp_path / "data", codecs, examples)
  (path,) = (tmp_path / "data").glob("ccl-train.array_record-*")
  data = path.read_bytes()
  place = data.index(b"clip 0")
  damaged = {
    "cut": data[:place],
    "changed": data[:place] + b"X" + data[place + 1 :],
    "empty": b"",
  }
  path.write_bytes(damaged[damage])
  with pytest.raises(ValueError, match=r"data' cannot be read .*copy them"):
    list(records.open_split(tmp_path / "data", "train"))
