"""The commands, from latents to a resumed run and back to clips."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from ccl_jax.checkpoints import orbax_reader
from ccl_jax.data import media
from ccl_jax.params import trees
from tests import bucket, small_data, small_world
from tests.commands import call
from tests.small_data import AUDIO_FLAGS, FLAGS, FRAMES, SIZE


def train(data, workdir, *arguments, config="ccl"):
  """Trains with FLAGS, which `arguments` override."""
  names = {argument.split("=")[0] for argument in arguments}
  small = [flag for flag in FLAGS if flag.split("=")[0] not in names]
  return call(
    "train", f"--config=configs/{config}.py:size=tiny", f"--workdir={workdir}",
    f"--config.data.path={data}", *small, *arguments,
  )  # fmt: skip


def test_a_run_on_a_mixture_goes_on_with_one_set_more(data, tmp_path):
  """Clips, sounds and silent videos; the log has the share of each."""
  sounds = small_data.write(tmp_path / "sounds", lacks=["video"])
  silent = small_data.write(tmp_path / "silent", lacks=["audio"])
  sources = [(f"{data}", 2), (f"{sounds}", 1), (f"{silent}", 1)]
  for steps, chosen in ((2, sources[:2]), (4, sources)):
    status, text = train(
      "", tmp_path / "run", f"--config.data.sources={tuple(chosen)!r}",
      f"--config.num_train_steps={steps}", "--config.eval.tasks=()",
    )  # fmt: skip
    assert status == 0, text
  assert "50.00%" in text and "5 clips" in text
  last = json.loads(
    (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
  )
  shares = {k: v for k, v in last.items() if k.split("/")[0] == "epochs"}
  assert shares == {
    f"epochs/{data.name}": 1.6, "epochs/sounds": 0.8, "epochs/silent": 0.8
  }  # fmt: skip
  assert last["weight/silent"] == 0.25 and last["skipped"] == 0

  status, text = train(
    data, tmp_path / "other", f"--config.data.sources={tuple(sources)!r}"
  )
  assert status == 2 and "give one of them" in text.splitlines()[-1]
  assert not (tmp_path / "other" / "config.json").exists()


def losses(workdir):
  """Returns the logged lines of a run, without times."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  kept = ("step", "loss", "grad_norm", "learning_rate_factor", "skipped")
  return [
    {k: v for k, v in line.items() if k.split("/")[0] in (*kept, "loss_t")}
    for line in lines
  ]


def held_out(workdir):
  """Returns the logged lines of the loss on held-out clips."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [line for line in lines if "held_out/loss" in line]


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
  """Two workdirs: four steps at once, and two with two more on resuming."""
  folder = tmp_path_factory.mktemp("runs")
  straight, resumed = folder / "straight", folder / "resumed"
  no_samples = "--config.eval.tasks=()"
  for workdir, *flags in (
    (straight, "--config.num_train_steps=4"),
    (resumed, "--config.num_train_steps=2", no_samples),
    (resumed, "--config.num_train_steps=4", no_samples),
  ):
    status, text = train(data, workdir, *flags)
    assert status == 0, text
  return straight, resumed


def test_a_resumed_run_equals_one_that_never_stopped(runs):
  """Bit for bit, through the command line: losses and the final state."""
  lines = [losses(run) for run in runs]
  assert lines[0] == lines[1]
  assert [line["step"] for line in lines[0]] == [1, 2, 3, 4]
  states = [
    ocp.StandardCheckpointer().restore(run / "checkpoints" / "4" / "default")
    for run in runs
  ]
  leaves = [jax.tree.leaves(state) for state in states]
  assert len(leaves[0]) > 50
  assert all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


def test_records_in_a_bucket_train_the_same_run(data, runs, tmp_path):
  """Bit for bit, when it is resumed too; what is not there is one error."""
  shutil.copytree(data, tmp_path / "bucket" / "latents")
  run, flags = tmp_path / "run", ["--config.eval.tasks=()", *FLAGS]
  flags.remove("--config.eval.tasks=('a2v',)")

  def train_on(path, steps):
    return bucket.call(
      tmp_path, "train", "--config=configs/ccl.py:size=tiny",
      f"--workdir={run}", f"--config.data.path={path}",
      f"--config.num_train_steps={steps}", *flags,
    )  # fmt: skip

  for steps in (2, 4):
    status, text = train_on("gs://bucket/latents", steps)
    assert status == 0, text
  assert losses(run) == losses(runs[0])

  status, text = train_on("gs://bucket/latent", 6)
  assert status == 2 and "'gs://bucket/latent' holds no metadata.json" in text


def test_the_joint_stage_starts_from_the_audio_stage(data, tmp_path):
  """At rate 0 the audio stream stays what the audio stage has made of it."""
  first, second = tmp_path / "audio", tmp_path / "joint"
  status, text = call(
    "train", "--config=configs/ccl.py:size=tiny,stage=audio",
    f"--workdir={first}", f"--config.data.path={data}", *AUDIO_FLAGS,
    "--config.eval.tasks=()", "--config.num_train_steps=2",
  )  # fmt: skip
  assert status == 0, text
  status, text = train(
    data, second, f"--config.init.from_runs=(('audio/.*','{first}'),)",
    "--config.init.fresh=('fusion/.*','video/.*')",
    "--config.optimizer.learning_rates=(('audio/.*',0.0),('.*',1e-3))",
    "--config.eval.tasks=()", "--config.num_train_steps=1",
  )  # fmt: skip
  assert status == 0, text
  old = orbax_reader.read_arrays(
    epath.Path(first) / "checkpoints" / "2" / "default",
    {"ema/audio/embed/kernel": jax.ShapeDtypeStruct((8, 24), "float32")},
  )
  now = orbax_reader.read_arrays(
    epath.Path(second) / "checkpoints" / "1" / "default",
    {"frozen/audio/embed/kernel": jax.ShapeDtypeStruct((8, 24), "float32")},
  )
  np.testing.assert_array_equal(*old.values(), *now.values())


def test_a_lora_is_trained_on_a_run_and_resumed(data, runs, tmp_path):
  """Bit for bit, as after a stop before the last checkpoint."""
  workdir, stopped = tmp_path / "run", tmp_path / "stopped"
  flags = (
    f"--config.init.from_runs=(('.*','{runs[0]}'),)",
    "--config.num_train_steps=2", "--config.checkpoint.save_interval_steps=1",
    "--config.eval.tasks=()", "--config.eval.loss_every_steps=1",
    "--config.checkpoint.keep_best=held_out/loss",
    "--config.optimizer.warmup_steps=1",
  )  # fmt: skip
  status, text = train(data, workdir, *flags, config="lora")
  assert status == 0, text
  shutil.copytree(workdir, stopped)
  shutil.rmtree(stopped / "checkpoints" / "2")
  status, text = train(data, stopped, *flags, config="lora")
  assert status == 0 and "from step 1" in text, text
  states = [
    ocp.StandardCheckpointer().restore(run / "checkpoints" / "2" / "default")
    for run in (workdir, stopped)
  ]
  leaves = [jax.tree.leaves(state) for state in states]
  assert all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))
  lines = [held_out(run) for run in (workdir, stopped)]
  assert lines[0] == lines[1]
  assert [line["step"] for line in lines[0]] == [1, 2]
  best = min(lines[0], key=lambda line: line["held_out/loss"])["step"]
  assert f"Best held_out/loss: step {best}" in text
  base = ocp.StandardCheckpointer().restore(
    runs[0] / "checkpoints" / "4" / "default"
  )
  for path, x in trees.flatten(states[0]["frozen"]).items():
    assert np.array_equal(x, trees.flatten(base["ema"])[path]), path
  assert "fusion/video/attention/q/lora/b/kernel" in trees.flatten(
    states[0]["trainable"]
  )
  out = tmp_path / "out"
  status, text = sample(
    workdir, out, "--prompt=A face.", f"--lora={workdir}:0.5", "--step=best"
  )
  assert status == 0, text
  about = json.loads((out / "t2av_0.json").read_text())
  assert about["checkpoint"]["step"] == best
  assert (out / "t2av_0.mp4").exists()


@pytest.mark.parametrize(
  ("argument", "words"),
  [
    ("--config.lora.rules=(('vido/.*',2),)", "'vido/.*' matches no parameter"),
    ("--config.lora.rules=('video/.*',2)", '--config.lora.rules="(('),
    ("--config.lora.rules=(('video/.*',1.5),)", "expected pairs"),
    ("--config.lora.train_also=x", "train_also=('x',) without lora.rules"),
    ("--config.lora.alpha=nan", "lora.alpha is nan"),
    ("--config.lora.rank=2", "no config key 'lora.rank'"),
  ],
)
def test_a_wrong_lora_is_one_clear_error(data, tmp_path, argument, words):
  status, text = train(data, tmp_path / "run", argument, config="lora")
  assert status != 0
  assert words in text.splitlines()[-1] and "Traceback" not in text, text
  assert not (tmp_path / "run").exists()


def test_a_run_leaves_what_it_promises(runs):
  workdir = runs[0]
  for name in ("config.json", "clip.json", "codecs", "loss.png", "tensorboard"):
    assert (workdir / name).exists(), name
  assert (workdir / "samples" / "4" / "a2v_0.mp4").exists()
  assert (workdir / "samples" / "4" / "a2v.png").exists()
  assert not list(workdir.rglob("*partial*"))


@pytest.mark.parametrize(
  ("argument", "words"),
  [
    ("--config.num_train_step=4", "num_train_steps"),
    ("--config.steps=4", "is called --config.num_train_steps now"),
    ("--config.num_train_steps=many", "num_train_steps"),
    ("--config.num_train_steps=0", "expected 1 or more"),
    ("--config.model.video.channels=16", "the data have 8"),
    ("--config.data.split=tarin", "tarin"),
    ("--config.data.path=nowhere", "ccl_jax.encode"),
    ("--config.data.path=", "--config.data.path=FOLDER"),
    ("--config.data-path=x", "did you mean --config.data.path=FOLDER"),
    ("--config.data.pth=x", "did you mean --config.data.path=FOLDER"),
    ("--config.num-train-steps=3", "did you mean --config.num_train_steps="),
    ("--config.data=x", "config.data is a section"),
    ("--config.model.backend=x", "expected one of reference, framed"),
    ("--config.zzz=1", "no config key 'zzz'"),
    ("--config.batch_size=x", "written like --config.batch_size="),
    ("--config.checkpoint.keep_best=los", "Did you mean 'loss'?"),
    ("--config.checkpoint.keep_best=held_out/loss", "eval.loss_every_steps"),
    ("--config.eval.world=nowhere", "eval.world=nowhere: expected the folder"),
    ("--config.init.from_runs=RUN", "(('PATH REGEX', 'WORKDIR'),)"),
    ("--config.initial.sources=RUN", "(('PATH REGEX', 'WORKDIR'),)"),
    ("--config.init.from_runs=(('.*','nowhere'),)", "No checkpoint in"),
    ("--config.checkpoint.max_to_keep=0", "max_to_keep=0"),
    ("--config.log.every_steps=0", "log.every_steps=0"),
    ("--config.log.profile_steps=(3,2)", "log.profile_steps=(3, 2)"),
    (
      "--config.optimizer.learning_rates=('.*',1e-3)",
      "learning_rates is ('.*', 0.001): expected pairs",
    ),
  ],
)
def test_a_wrong_config_is_one_clear_error(
  data, tmp_path, monkeypatch, argument, words
):
  """And nothing is left, not even a folder for programs."""
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  status, text = train(data, tmp_path / "run", argument)
  assert status == 2
  assert words in text.splitlines()[-1] and "Traceback" not in text, text
  assert not (tmp_path / "run").exists()


def test_the_workdir_of_another_config_is_refused(data, runs):
  before = sorted(runs[0].rglob("*"))
  status, text = train(data, runs[0], "--config.seed=7")
  assert status == 2
  assert "another config" in text
  assert "(seed: 0 there, 7 now)" in text
  status, text = train(
    data, runs[0], "--config.data.split=validation",
    "--config.model.video.ffn=48", "--config.data.num_threads=1",
  )  # fmt: skip
  assert status == 2
  assert (
    "(data.split: train there, validation now;"
    " model.video.ffn: 24 there, 48 now)"
  ) in text
  assert sorted(runs[0].rglob("*")) == before


def test_shares_of_a_world_choose_the_best_checkpoint(tmp_path):
  """They are those of `evaluate`, and the same after a stop."""
  world, latents = small_world.write(tmp_path)
  workdir, stopped = tmp_path / "run", tmp_path / "stopped"
  name = "held_out/share/a2v/EAC"
  flags = (
    "--config.num_train_steps=2", "--config.checkpoint.save_interval_steps=1",
    "--config.eval.every_steps=1", "--config.eval.split=easy",
    f"--config.eval.world={world}", "--config.eval.num_scored=2",
    f"--config.checkpoint.keep_best={name}",
    "--config.optimizer.learning_rates=(('.*',0.1),)",
  )  # fmt: skip
  status, text = train(latents, workdir, *flags)
  assert status == 0, text
  shutil.copytree(workdir, stopped)
  shutil.rmtree(stopped / "checkpoints" / "2")
  status, text = train(latents, stopped, *flags)
  assert status == 0 and "from step 1" in text, text
  found = [scored(run) for run in (workdir, stopped)]
  assert found[0] == found[1] and list(found[0]) == [1, 2]
  best = max(found[0], key=lambda step: (found[0][step][name], step))
  assert f"Best {name}: step {best}" in text
  assert len(list((workdir / "samples" / "2").glob("*.mp4"))) == 1

  out = tmp_path / "out"
  status, text = call(
    "evaluate", f"--workdir={stopped}", f"--data={latents}",
    f"--clips={world}", f"--output={out}", "--tasks=a2v", "--splits=easy",
    "--step=best", "--num=2",
  )  # fmt: skip
  assert status == 0 and f"step {best}" in text, text
  results = json.loads((out / "results.json").read_text())
  shares = results["easy"]["shares"]["a2v"]
  assert found[0][best] == pytest.approx(
    {f"held_out/share/a2v/{x}": shares[x.replace("_", " ")][0]
     for x in ("EAC", "onset_F1")}
  )  # fmt: skip


def scored(workdir):
  """Returns step -> the logged shares of held-out clips."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  found = {
    line["step"]: {k: v for k, v in line.items() if "/share/" in k}
    for line in lines
    if "held_out/share/a2v/EAC" in line
  }
  return found


def sample(workdir, out, *arguments):
  return call("sample", f"--workdir={workdir}", f"--output={out}", *arguments)


def test_sampling_writes_clips_with_their_settings(runs, tmp_path):
  lines = [{"prompt": "A face."}, {"prompt": "A ball.", "seed": 5, "name": "x"}]
  prompts = tmp_path / "prompts.jsonl"
  prompts.write_text("\n".join(json.dumps(line) for line in lines))
  given = f"--prompts={prompts}", "--guidance=ucg2"
  status, text = sample(runs[0], tmp_path, *given)
  assert status == 0, text
  for name, seed in (("t2av_0000", 0), ("x", 5)):
    clip = media.read_clip(tmp_path / f"{name}.mp4")
    assert clip.video.shape == (FRAMES, *SIZE, 3)
    assert len(clip.audio) == round(FRAMES / 25 * 16_000)
    settings = json.loads((tmp_path / f"{name}.json").read_text())
    assert settings["seed"] == seed
    assert settings["checkpoint"]["step"] == 4
  assert json.loads((tmp_path / "x.json").read_text())["prompt"] == "A ball."
