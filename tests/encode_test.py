"""Learned codecs by the command line: encode, train, and decode."""

import pytest

from ccl_jax.codecs import wav2vec2
from ccl_jax.data import media, records
from tests import tiny_codecs
from tests.commands import call
from tests.data import clips
from tests.small_data import FLAGS

SIZES = {
  "video_channels": tiny_codecs.VIDEO.channels,
  "audio_channels": tiny_codecs.AUDIO.channels,
  "text_width": tiny_codecs.TEXT.width,
  "text_length": 32,
  "frames": clips.FRAMES,
  "size": (16, 32),
  "validation_fraction": 0.5,
  "num_workers": 0,
  "batch_size": 4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("clips")
  clips.write_clips(path, 4, size=(16, 32))
  return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return tiny_codecs.write(tmp_path_factory.mktemp("weights"))


def encode(folder, output, weights, **changes):
  values = {f"weights.{name}": path for name, path in weights.items()}
  values |= {"codec": "wan"} | SIZES | changes
  return call(
    "encode", f"--input={folder}", f"--output={output}",
    "--config=configs/ccl.py:size=tiny",
    *(f"--config.encode.{name}={value}" for name, value in values.items()),
  )  # fmt: skip


def test_from_clips_to_a_model_and_back(folder, weights, tmp_path):
  data, run = tmp_path / "data", tmp_path / "run"
  status, text = encode(folder, data, weights)
  assert status == 0, text
  assert "Encoded 4 clips" in text and "CC-BY-NC" in text
  metadata = records.read_metadata(data)
  assert metadata["logvar"] == ["video", "audio"]
  assert metadata["shapes"] == {
    "video": [2, 2, 4, 4], "audio": [10, 4], "text": [32, 16]
  }  # fmt: skip

  status, text = call(
    "train", "--config=configs/ccl.py:size=tiny", f"--workdir={run}",
    f"--config.data.path={data}", *FLAGS, "--config.num_train_steps=2",
    "--config.batch_size=2", "--config.model.video.channels=4",
    "--config.model.audio.channels=4", "--config.model.text_width=16",
  )  # fmt: skip
  assert status == 0, text
  # At the end of training a clip is made, and decoded.
  video, audio = media.read_clip(run / "samples" / "2" / "a2v_0.mp4")
  assert video.shape == (clips.FRAMES, 16, 32, 3)
  assert len(audio) == clips.SAMPLES and audio.any()


def test_features_of_speech_control_a_video(folder, weights, tmp_path):
  """Wav2Vec2's latents: encoded, trained on, given, and never decoded."""
  data, run, out = (tmp_path / name for name in ("data", "run", "out"))
  speech = tiny_codecs.write_weights(
    tmp_path / "speech", "wav2vec2", wav2vec2.Wav2Vec2, tiny_codecs.SPEECH
  )
  without = {"weights.audio": "", "weights.vocoder": "", "audio_channels": 8}
  status, text = encode(
    folder, data, weights, **without, **{"weights.wav2vec2": speech}
  )
  assert status == 0, text
  # Two frames of video and eight features in each.
  assert records.read_metadata(data)["shapes"]["audio"] == [16, 8]
  status, text = call(
    "train", "--config=configs/icac.py:size=tiny", f"--workdir={run}",
    f"--config.data.path={data}", *FLAGS, "--config.num_train_steps=1",
    "--config.batch_size=2", "--config.model.video.channels=4",
    "--config.model.audio.channels=8", "--config.model.text_width=16",
    "--config.sampling.cache_reference=False",
  )  # fmt: skip
  assert status == 0, text
  preview = media.read_clip(
    run / "samples" / "1" / "a2v_0.mp4", need_audio=False
  )
  assert preview[0].shape == (clips.FRAMES, 16, 32, 3)
  given = next(folder.glob("*.mp4"))
  status, text = call(
    "sample", f"--workdir={run}", f"--output={out}", "--task=a2v",
    "--prompt=A face.", f"--audio={given}",
  )  # fmt: skip
  assert status == 0, text
  _, sound = media.read_clip(out / "a2v_0.mp4")
  assert len(sound) == clips.SAMPLES and sound.any()


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"weights.wav2vec2": "x"}, "has wav2vec2 and audio, vocoder"),
    ({"weights.vocoder": ""}, "--config.encode.weights.vocoder=FILE"),
    ({"size": 64}, "expected two multiples of 8, such as (64, 64)."),
    ({"text_width": 4096}, "encode.text_width is 4096, the codecs' is 16"),
  ],
)
def test_weights_that_do_not_fit_are_one_error(
  folder, weights, tmp_path, changes, reason
):
  status, text = encode(folder, tmp_path / "data", weights, **changes)
  assert status == 2 and reason in text.splitlines()[-1]
  assert not list(tmp_path.iterdir())
