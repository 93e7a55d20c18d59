"""Batches as a pure function of seed and step."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ccl_jax.data import records
from ccl_jax.data.loader import Loader, read_clips, read_null_text
from tests.data import clips

NUM = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Ten clips: clip 3 has no picture, clip 4 no sound, clip 5 a long one."""
  codecs = clips.codecs()
  long = np.tile(clips.example(codecs, 5).audio, (3, 1))
  special = {3: {"video": None}, 4: {"audio": None}, 5: {"audio": long}}
  examples = [
    clips.example(codecs, i, **special.get(i, {})) for i in range(NUM)
  ]
  path = tmp_path_factory.mktemp("records") / "data"
  clips.write_records(path, codecs, examples)
  return path


def assert_equal_batches(one, other):
  assert one.keys() == other.keys()
  for key in one:
    np.testing.assert_array_equal(one[key], other[key])


def test_a_batch_has_what_the_model_takes(data):
  batch = Loader(data, batch_size=4).batch_at(0)
  shapes = {name: array.shape for name, array in batch.items()}
  assert shapes == {
    "video": (4, 2, 2, 3, 8), "audio": (4, 10, 6), "text": (4, 6, 8),
    "null_text": (6, 8), "has_video": (4,), "has_audio": (4,),
  }  # fmt: skip
  for name, array in batch.items():
    expected = bool if name.startswith("has_") else np.float16
    assert array.dtype == (np.float32 if name == "null_text" else expected)


def test_sound_is_cropped_or_padded_to_the_frames(data):
  clip = read_clips(data, "train")
  assert clip["video"].dtype == np.float32
  # 0.2 s are 6 latents and two latent frames take 10.
  assert np.all(clip["audio"][0, :6].any(-1))
  assert not clip["audio"][0, 6:].any()
  assert np.all(clip["audio"][5].any(-1))
  assert clip["has_video"].tolist() == [i != 3 for i in range(NUM)]
  assert clip["has_audio"].tolist() == [i != 4 for i in range(NUM)]
  assert not clip["video"][3].any() and not clip["audio"][4].any()


def test_read_clips_keeps_order_and_names(data):
  some = read_clips(data, "train", 3)
  assert some["name"] == ["clip 0", "clip 1", "clip 2"]
  assert some["caption"][2] == "A disc, 2."
  assert len(read_clips(data, "train", 99)["name"]) == NUM
  later = read_clips(data, "train", 2, start=4)
  assert later["name"] == ["clip 4", "clip 5"]
  np.testing.assert_array_equal(later["null_text"], read_null_text(data))


def test_null_text_is_the_empty_prompt(data):
  empty = clips.codecs().text.encode("")
  null = read_null_text(data)
  np.testing.assert_array_equal(null[: len(empty)], empty)
  assert not null[len(empty) :].any()


def test_text_is_stored_at_its_own_length_and_padded_when_read(tmp_path):
  codecs = clips.codecs()
  texts = [codecs.text.encode(x) for x in ("", "A disc.", "A b c d e f g h i.")]
  made = [clips.example(codecs, i, text=x) for i, x in enumerate(texts)]
  clips.write_records(tmp_path / "data", codecs, made)
  split = records.open_split(tmp_path / "data", "train")
  assert [len(split[i]["text"]) for i in range(3)] == [1, 4, 6]
  batch = Loader(tmp_path / "data", batch_size=3, shuffle=False).batch_at(0)
  for row, text in zip(batch["text"], texts, strict=True):
    np.testing.assert_array_equal(row[: len(text)], text.astype(np.float16))
    assert not row[len(text) :].any()


def test_order_is_a_function_of_seed_and_step(data):
  one = Loader(data, batch_size=4, seed=1)
  steps = [one.batch_at(i) for i in range(6)]
  # A new loader that starts in the middle equals the one that never stopped,
  # whether or not batches are prepared ahead.
  resumed = Loader(data, batch_size=4, seed=1, num_threads=2)
  for i in (3, 4, 5, 1):
    assert_equal_batches(resumed.batch_at(i), steps[i])
  other = Loader(data, batch_size=4, seed=2)
  orders = [[x.names_at(i) for i in range(5)] for x in (one, other)]
  assert orders[0] != orders[1]


def test_an_epoch_has_every_clip_once_and_the_next_another_order(data):
  loader = Loader(data, batch_size=5, seed=0)
  epochs = [loader.names_at(i) + loader.names_at(i + 1) for i in (0, 2)]
  assert set(epochs[0]) == set(epochs[1]) and len(set(epochs[0])) == NUM
  assert epochs[0] != epochs[1]
  plain = Loader(data, batch_size=NUM, shuffle=False)
  assert plain.names_at(0) == plain.names_at(7)
  assert plain.names_at(0) == [f"clip {i}" for i in range(NUM)]


@pytest.mark.parametrize("num_threads", [0, 2])
def test_hosts_take_their_rows_of_the_same_batches(data, num_threads):
  """However many hosts there are, in whatever order their devices hold rows."""
  whole = Loader(data, batch_size=4, seed=0)
  for hosts in ([[0, 1], [2, 3]], [[3], [0, 2], [1]], [[2, 0, 1, 3]]):
    for rows in hosts:
      loader = Loader(
        data, batch_size=4, seed=0, rows=rows, num_threads=num_threads
      )
      for step in (0, 1, 5):
        expected = whole.batch_at(step)
        null_text = expected.pop("null_text")
        chosen = {name: x[rows] for name, x in expected.items()}
        chosen["null_text"] = null_text
        assert_equal_batches(loader.batch_at(step), chosen)
        names = [whole.names_at(step)[row] for row in rows]
        assert loader.names_at(step) == names


def test_no_record_is_read_for_another_host(data, monkeypatch):
  read = []
  get = records.open_split

  class Counted:
    def __init__(self, source):
      self.source = source

    def __len__(self):
      return len(self.source)

    def __getitem__(self, index):
      read.append(int(index))
      return self.source[index]

  monkeypatch.setattr(records, "open_split", lambda *args: Counted(get(*args)))
  loader = Loader(data, batch_size=5, shuffle=False, rows=[1, 3])
  loader.batch_at(0)
  loader.batch_at(1)
  assert read == [1, 3, 6, 8]


@pytest.mark.parametrize("rows", [[], [4], [-1, 2]])
def test_rows_that_the_batch_does_not_have_are_an_error(data, rows):
  with pytest.raises(ValueError, match="are not rows of a batch"):
    Loader(data, batch_size=4, rows=rows)


@pytest.fixture(scope="module")
def posteriors(tmp_path_factory):
  """The same clips with a variance of the video: clip 3 has none."""
  codecs = clips.codecs()

  def example(i):
    made = clips.example(codecs, i, **({"video": None} if i == 3 else {}))
    logvar = None if made.video is None else 0.5 * made.video - 4
    return made._replace(video_logvar=logvar)

  path = tmp_path_factory.mktemp("posteriors") / "data"
  examples = [example(i) for i in range(NUM)]
  clips.write_records(path, codecs, examples, logvar=("video",))
  return path


def test_latents_are_drawn_from_what_is_known_of_them(data, posteriors):
  """Over many epochs the draws have the mean and variance of the records."""
  loader = Loader(posteriors, batch_size=NUM, shuffle=False)
  draws = np.stack([loader.batch_at(i)["video"] for i in range(100)])
  split = records.open_split(posteriors, "train")
  for row in (0, 7):
    mean = split[row]["video"].astype(np.float32)
    std = np.exp(split[row]["video_logvar"].astype(np.float32) / 2)
    z = (draws[:, row] - mean) / std
    assert abs(z.mean()) < 0.04 and abs(z.std() - 1) < 0.04
    assert np.abs(z.mean(0)).max() < 5 / np.sqrt(len(z))
  assert not draws[:, 3].any()
  plain = Loader(data, batch_size=NUM, shuffle=False).batch_at(5)
  batch = loader.batch_at(5)
  for name in ("audio", "text", "has_video", "has_audio", "null_text"):
    np.testing.assert_array_equal(
      np.delete(batch[name], [4, 5], 0) if name != "null_text" else batch[name],
      np.delete(plain[name], [4, 5], 0) if name != "null_text" else plain[name],
    )


def test_draws_are_a_function_of_seed_and_place_in_the_stream(posteriors):
  def videos(seed=0, **kwargs):
    loader = Loader(
      posteriors, batch_size=4, seed=seed, shuffle=False, **kwargs
    )
    return [loader.batch_at(i)["video"] for i in (0, 5, 9)]

  for whole, threads, rows in zip(
    videos(), videos(num_threads=2), videos(rows=[3, 1]), strict=True
  ):
    np.testing.assert_array_equal(whole, threads)
    np.testing.assert_array_equal(whole[[3, 1]], rows)
  # Step 5 begins with the clip that step 0 begins with, two epochs later.
  first, later, _ = videos()
  assert np.abs(first[0] - later[0]).max() > 0.01
  assert np.abs(first[0] - videos(seed=1)[0][0]).max() > 0.01


def test_the_mean_can_be_had_too(data, posteriors):
  loader = Loader(
    posteriors, batch_size=3, shuffle=False, sample_posterior=False
  )
  plain = Loader(data, batch_size=3, shuffle=False)
  assert_equal_batches(loader.batch_at(0), plain.batch_at(0))
  read = read_clips(posteriors, "train", 3)
  np.testing.assert_array_equal(read["video"], plain.batch_at(0)["video"])


def test_records_of_before_there_were_variances_are_read(data, tmp_path):
  old = tmp_path / "old"
  shutil.copytree(data, old)
  metadata = json.loads((old / "metadata.json").read_text())
  del metadata["logvar"]
  (old / "metadata.json").write_text(json.dumps(metadata))
  assert_equal_batches(
    Loader(old, batch_size=4).batch_at(1),
    Loader(data, batch_size=4).batch_at(1),
  )


def test_tensorflow_and_torch_are_never_imported(data):
  code = (
    "import sys; from ccl_jax.data import loader;"
    f"loader.Loader({str(data)!r}, batch_size=2).batch_at(0);"
    "assert not {'tensorflow', 'torch'} & sys.modules.keys()"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
