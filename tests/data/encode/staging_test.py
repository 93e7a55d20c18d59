"""Encoding that is interrupted and resumed."""

import dataclasses

import pytest

from ccl_jax.data import records, shards
from ccl_jax.data.encode import dataset, staging
from configs.ccl import get_config
from tests import bucket, commands
from tests.data import clips

NUM = 7
SETTINGS = dataset.EncodeSettings(
  codec="wan", fps=clips.FPS, frames=clips.FRAMES, size=clips.SIZE,
  validation_fraction=0.3, num_workers=0, batch_size=1, clips_per_shard=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("clips")
  clips.write_clips(path, NUM)
  (path / "3.mp4").write_text("not a clip")
  return path


def contents(path):
  """All files, without those that hold the date or an order of keys."""
  return {
    file.relative_to(path).as_posix(): file.read_bytes()
    for file in path.rglob("*")
    if file.is_file() and file.name not in ("codecs.npz", "features.json")
  }


def interrupt(folder, output, learned, settings=SETTINGS, after=4):
  with pytest.raises(KeyboardInterrupt):
    dataset.encode_dataset(
      folder, output, settings, codecs=learned(stop_after=after)
    )


def test_a_run_that_goes_on_equals_one_that_never_stopped(
  folder, tmp_path, learned
):
  whole, output = tmp_path / "whole", tmp_path / "data"
  dataset.encode_dataset(folder, whole, SETTINGS, codecs=learned())
  interrupt(folder, output, learned)
  assert not output.exists()
  work = tmp_path / "data.partial"
  kept = {path: path.stat().st_mtime_ns for path in work.glob("ccl-*")}
  assert len(kept) == len(list((work / "shards").iterdir())) > 0
  assert not list(work.rglob(".*"))  # nothing half-written
  (work / ".ccl-train.array_record-00001.9.partial").touch()  # as if killed
  (work / ".codecs.9.partial").mkdir()
  (work / ".codecs.9.partial" / "codecs.npz").touch()

  codecs = learned()
  summary = dataset.encode_dataset(folder, output, SETTINGS, codecs=codecs)
  assert contents(output) == contents(whole)
  assert not work.exists() and not list(output.rglob(".*"))
  for path, changed in kept.items():
    assert (output / path.name).stat().st_mtime_ns == changed
  assert summary.fresh == len(codecs.video.shapes) < NUM - 1
  assert sum(summary.encoded.values()) == NUM - 1
  assert summary.left_out.keys() == {"3.mp4"}


def test_other_settings_clips_and_codecs_do_not_go_on(
  folder, tmp_path, learned
):
  output = tmp_path / "data"
  interrupt(folder, output, learned)
  before = contents(tmp_path / "data.partial")
  other = dataclasses.replace(SETTINGS, frames=1)
  with pytest.raises(
    ValueError,
    match=r"other settings: encode.frames was 5, now it is 1\..*--f",
  ):
    dataset.encode_dataset(folder, output, other, codecs=learned())
  with pytest.raises(ValueError, match="codecs was given, now it is fitted"):
    linear = dataclasses.replace(SETTINGS, codec="linear")
    dataset.encode_dataset(folder, output, linear)
  with pytest.raises(ValueError, match="started with other codecs"):
    dataset.encode_dataset(folder, output, SETTINGS, codecs=clips.codecs())
  captions = tmp_path / "captions.jsonl"
  captions.write_text('{"file": "0.mp4", "video": "Another."}')
  with pytest.raises(ValueError, match=r"clips\.digest"):
    dataset.encode_dataset(
      folder, output, SETTINGS, codecs=learned(), captions=captions
    )
  assert contents(tmp_path / "data.partial") == before
  dataset.encode_dataset(folder, output, other, codecs=learned(), force=True)
  assert records.read_metadata(output)["frames"] == 1


def test_how_it_is_made_may_change(folder, tmp_path, learned):
  interrupt(folder, tmp_path / "data", learned)
  other = dataclasses.replace(SETTINGS, batch_size=3, num_workers=1)
  summary = dataset.encode_dataset(
    folder, tmp_path / "data", other, codecs=learned()
  )
  assert sum(summary.encoded.values()) == NUM - 1


def test_fitted_codecs_are_not_fitted_again(folder, tmp_path, monkeypatch):
  linear = dataclasses.replace(
    SETTINGS, codec="linear", video_channels=6, audio_channels=6,
    text_length=6, text_width=8,
  )  # fmt: skip
  add, added = shards.ShardWriter.add, []

  def stop(writer, clip):
    added.append(clip.name)
    if len(added) == 4:
      raise KeyboardInterrupt
    add(writer, clip)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(shards.ShardWriter, "add", stop)
    dataset.encode_dataset(folder, tmp_path / "data", linear)
  with monkeypatch.context() as patch:
    patch.setattr(dataset, "fit_codecs", None)
    dataset.encode_dataset(folder, tmp_path / "data", linear)
  dataset.encode_dataset(folder, tmp_path / "whole", linear)
  assert contents(tmp_path / "data") == contents(tmp_path / "whole")


def test_latents_that_are_refused_are_kept_to_be_looked_at(
  folder, tmp_path, learned, monkeypatch, caplog
):
  codecs = learned()
  posterior = codecs.video.posterior
  monkeypatch.setattr(
    codecs.video, "posterior", lambda x: [30 * y for y in posterior(x)]
  )
  with pytest.raises(ValueError, match="video latents have mean"):
    dataset.encode_dataset(folder, tmp_path / "data", SETTINGS, codecs=codecs)
  assert not (tmp_path / "data").exists()
  assert "6 encoded clips are kept in" in caplog.text


PLAN = {"settings": {"size": [16, 24]}}


@pytest.mark.parametrize(
  ("started", "is_complete", "force", "expected"),
  [
    (None, False, False, "start"),
    (PLAN, False, False, "resume"),
    (PLAN, False, True, "resume"),
    ({"settings": {}}, False, False, "settings.size was None, now it is"),
    ({"settings": {}}, False, True, "start"),
    (None, True, False, "exists: choose another"),
    (PLAN, True, False, "exists: choose another"),
    (None, True, True, "start"),
    (PLAN, True, True, "resume"),
  ],
)
@pytest.mark.parametrize("is_remote", [False, True])
def test_a_run_starts_resumes_or_is_refused(
  tmp_path, started, is_complete, force, expected, is_remote
):
  output = (bucket.make() if is_remote else tmp_path) / "data"
  if started is not None:
    staging.open_output(output, started)
    (staging.staging_dir(output) / "shard").write_text("of an earlier run")
  if is_complete and is_remote:
    (output / "metadata.json").write_text("{}")
    (output / "codecs" / "codecs.json").write_text("{}")
  elif is_complete:
    output.mkdir()
  if is_remote and is_complete and force:
    expected = "start"  # in its place, what is complete is replaced
  if expected in ("start", "resume"):
    staging.open_output(output, PLAN, force)
    kept = (staging.staging_dir(output) / "shard").exists()
    assert kept == (expected == "resume")
    staging.check_visible(output)
  else:
    with pytest.raises(ValueError, match=expected):
      staging.open_output(output, PLAN, force)


def test_a_folder_of_somebody_is_left_alone(tmp_path):
  (tmp_path / "data.partial").mkdir()
  (tmp_path / "data.partial" / "mine").touch()
  for force in (False, True):
    with pytest.raises(ValueError, match="is not an unfinished data set"):
      staging.open_output(tmp_path / "data", {"a": 1}, force)
  staging.discard(tmp_path / "data")
  assert (tmp_path / "data.partial" / "mine").exists()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("is_remote", [False, True])
def test_only_a_data_set_is_replaced(tmp_path, is_remote, force):
  output = (bucket.make() if is_remote else tmp_path) / "clips"
  output.mkdir()
  for name in ("a.mp4", "metadata.json"):
    (output / name).write_text("mine")
  with pytest.raises(ValueError, match="is no data set: choose another"):
    staging.open_output(output, PLAN, force)
  assert {path.name for path in output.iterdir()} == {"a.mp4", "metadata.json"}


def test_clips_are_not_replaced_by_their_latents(tmp_path):
  clips.write_clips(tmp_path / "clips", 1)
  for name, verb in (("clips", "is"), ("", "holds")):
    status, text = commands.call(
      "encode", f"--input={tmp_path}/clips", f"--output={tmp_path}/{name}",
      "--config=configs/ccl.py:size=tiny", "--force",
    )  # fmt: skip
    assert status == 2 and text.count("\n") == 1
    assert f" {verb} the input '{tmp_path}/clips': choose another" in text
  assert [path.name for path in tmp_path.iterdir()] == ["clips"]
  assert len(list((tmp_path / "clips").glob("*.mp4"))) == 1


def test_in_a_bucket_it_lies_in_its_place(folder, learned):
  output = bucket.make() / "data"
  interrupt(folder, output, learned)
  with pytest.raises(ValueError, match="not encoded data"):
    records.read_metadata(output)
  codecs = learned()
  dataset.encode_dataset(folder, output, SETTINGS, codecs=codecs)
  assert 0 < len(codecs.video.shapes) < NUM - 1
  assert sum(records.read_metadata(output)["counts"].values()) == NUM - 1
  with pytest.raises(ValueError, match="exists"):
    dataset.encode_dataset(folder, output, SETTINGS, codecs=learned())
  codecs = learned()
  dataset.encode_dataset(folder, output, SETTINGS, codecs=codecs, force=True)
  assert len(codecs.video.shapes) == NUM - 1


def test_processes_share_the_work(folder, tmp_path):
  """By the command line; the result is that of one process."""
  sizes = {
    "frames": clips.FRAMES,
    "size": (16, 32),  # of which the model can take patches
    "validation_fraction": 0.3,
  }
  sizes |= {"num_workers": 0, "clips_per_shard": 2}
  processes = commands.start_two(
    "-m", "ccl_jax.encode", f"--input={folder}",
    f"--output={tmp_path / 'two'}", "--config=configs/ccl.py:size=tiny",
    *(f"--config.encode.{name}={value}" for name, value in sizes.items()),
  )  # fmt: skip
  settings = get_config("size=tiny").encode.to_dict() | sizes
  dataset.encode_dataset(
    folder, tmp_path / "one", dataset.EncodeSettings(**settings)
  )
  codes, texts = zip(*map(commands.finish, processes), strict=True)
  assert codes == (0, 0), "\n".join(texts)
  assert contents(tmp_path / "one") == contents(tmp_path / "two")
  assert "Encoded 6 clips" in texts[0] and "Encoded" not in texts[1]
