r"""Trains and scores variants with equal steps, as in the paper's Table 2:

    python -m ccl_jax.ablate --data=LATENTS --clips=WORLD --output=DIR \
        [--rows=gate,tarp,lct,ucg,sync] [--row='wide cca ucg2 KEY=VALUE']... \
        [--config=configs/ccl.py:size=tiny] [--seeds=3] [--steps=N] [--num=32]

A row is a model, config keys that it changes, and a guidance rule:

    gate   gated       text    the paper's baseline
    tarp   gated       text    and time-aligned positions (TARP)
    lct    cca         text    and context tokens (LCT) with routing (DCR)
    ucg    as lct      ucg2    guided by the context tokens (UCG), two passes
    sync   as lct      sync    guided by a null stream (SyncCFG)

In `--row='NAME MODEL RULE [after=ROW] KEY=VALUE ...'` the model is a fusion of
--config, or a config such as configs/icac.py:size=tiny; with `after`, training
starts from the parameters of an earlier row.

Rows that differ only in guidance share a run. All runs have the same data,
steps and seeds; `train` and `evaluate` make them in DIR, one after the other,
and what is complete is not made again. Clips of all seeds of a prompt are
pooled, so an interval is that of drawing other prompts, for these seeds; gains
are paired, prompt by prompt, with the previous row.

Writes table.md, results.json, and loss.png with the losses of the tasks.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.diffusion import tasks
from ccl_jax.metrics import bootstrap, synchworld, tables
from ccl_jax.metrics.ablation_rows import Row, Run, chosen_rows
from ccl_jax.storage.files import replacing
from ccl_jax.storage.text_files import read_json, write_json
from ccl_jax.training import log

DATA = flags.DEFINE_string("data", None, "Folder of encoded clips.")
CLIPS = flags.DEFINE_string(
  "clips", None, "Folder of the same clips before encoding."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder for runs and results.")
CONFIG = flags.DEFINE_string(
  "config", "configs/ccl.py:size=tiny", "Config of all runs, without fusion."
)
ROW_NAMES = flags.DEFINE_list(
  "rows", ["gate", "tarp", "lct", "ucg", "sync"], "Rows by name, in order."
)
MORE_ROWS = flags.DEFINE_multi_string(
  "row",
  [],
  "A row of your own, 'NAME MODEL RULE [after=ROW] KEY=VALUE ...', as"
  " `ablate`'s first lines explain; repeatable.",
)
SEEDS = flags.DEFINE_integer(
  "seeds", 3, "Runs of each variant, with seeds 0, 1, ...", lower_bound=1
)
STEPS = flags.DEFINE_integer(
  "steps", None, "Training steps of each run; the config's if unset.",
  lower_bound=1,
)  # fmt: skip
TASKS = flags.DEFINE_list(
  "tasks", ["a2v", "v2a", "t2av"], "Tasks to score, separated by commas."
)
SPLITS = flags.DEFINE_list(
  "splits", ["easy", "hard"], "Splits of the data, separated by commas."
)
NUM = flags.DEFINE_integer(
  "num", 32, "Clips of each split, at most.", lower_bound=2
)


# Split -> name -> measurements of clips.
Measured = dict[str, dict[str, list[synchworld.ClipScores]]]


def ablate() -> None:
  """Trains and scores every row, and writes the table and the figure.

  Raises:
    ValueError: a row, task or rule that does not exist, or something that
      training or scoring refused, and said why.
    subprocess.CalledProcessError: one of them failed.
  """
  rows = chosen_rows(ROW_NAMES.value, MORE_ROWS.value)
  if not (rows and TASKS.value and SPLITS.value):
    raise ValueError("--rows, --tasks or --splits is empty: expected some.")
  for task in TASKS.value:
    tasks.inference_task(task)
  output = epath.Path(OUTPUT.value)
  runs = {}  # of each variant, the name of its first row
  for name, row in rows.items():
    runs.setdefault(row.run, name)
  merge_settings(output, {name: run for run, name in runs.items()})
  measured = []
  for seed in range(SEEDS.value):
    found = {}
    for run, name in runs.items():
      folder = output / f"{name}_{seed}"
      first = rows[run.after].run if run.after else None
      train(folder, run, seed, first and output / f"{runs[first]}_{seed}")
      # What was refused above may be changed, and leaves no file.
      settings = merge_settings(output, {name: run})
      write_json(output / "settings.json", settings)
      rules = sorted({row.rule for row in rows.values() if row.run == run})
      found[run] = score(folder, rules)
    measured.append(found)
  shares, gains, texts = {}, {}, []
  for split in SPLITS.value:
    for task in TASKS.value:
      title = f"{split} {task}"
      clips, floor, ceiling = collect(measured, rows, split, task)
      shares[title] = {
        name: bootstrap.share(x, floor, ceiling) for name, x in clips.items()
      }
      gains[title] = {
        f"{name} - {before}": bootstrap.compare(clips[name], clips[before])
        for before, name in itertools.pairwise(clips)
      }
      heading = "Gain of each row's scores on the row before, prompt by prompt"
      text = f"{title}, {SEEDS.value} seeds"
      texts.append(tables.report(text, shares[title], heading, gains[title]))
  report = "\n".join(texts)
  print(report)
  with replacing(output / "table.md") as partial:
    partial.write_text(report)
  write_json(output / "results.json", {"shares": shares, "gains": gains})
  plot(output, list(runs.values()))


def merge_settings(
  output: epath.Path, runs: Mapping[str, Run]
) -> dict[str, Any]:
  """Returns the settings of the results in a folder, and of some variants.

  Args:
    runs: by name.

  Raises:
    ValueError: the results are of other settings.
  """
  path = output / "settings.json"
  known = read_json(path) if path.exists() else {}
  flags = (DATA, CLIPS, CONFIG, STEPS, TASKS, SPLITS, NUM)
  ours = {flag.name: flag.value for flag in flags} | {
    f"row {name}": json.loads(json.dumps(run._asdict()))  # tuples become lists
    for name, run in runs.items()
  }
  if changed := [x for x in ours if x in known and ours[x] != known[x]]:
    raise ValueError(
      f"{output} has results of other settings ({', '.join(changed)}): give"
      f" the same flags, or another --output. They are in {path}."
    )
  return known | ours


def train(
  folder: epath.Path, run: Run, seed: int, first: epath.Path | None
) -> None:
  """Trains a variant, or resumes its training.

  Args:
    first: folder of the variant whose parameters this one starts from.
  """
  if (folder / "scores").exists():
    return  # What was scored was complete.
  settings = [f"data.path={DATA.value}", f"seed={seed}", "eval.tasks=()"]
  if STEPS.value:
    settings.append(f"num_train_steps={STEPS.value}")
  arguments = run.arguments(CONFIG.value, settings, first and first / "run")
  call("train", f"--workdir={folder / 'run'}", *arguments)


def score(folder: epath.Path, rules: Sequence[str]) -> Measured:
  """Returns the measurements of a run's clips with every guidance rule."""
  path = folder / "scores" / "-".join(rules).replace(":", "_")
  if not (path / "results.json").exists():
    call(
      "evaluate", f"--workdir={folder / 'run'}", f"--data={DATA.value}",
      f"--clips={CLIPS.value}", f"--output={path}", f"--num={NUM.value}",
      f"--tasks={','.join(TASKS.value)}", f"--guidance={','.join(rules)}",
      f"--splits={','.join(SPLITS.value)}",
    )  # fmt: skip
  results = read_json(path / "results.json")
  return {split: found["clips"] for split, found in results.items()}


def call(name: str, *arguments: str) -> None:
  """Runs another command of the package; its output goes to the terminal.

  Raises:
    ValueError: it refused its arguments.
    subprocess.CalledProcessError: it failed.
  """
  program = (sys.executable, "-m", f"ccl_jax.{name}", *arguments)
  print("\n$ python", *program[1:], flush=True)
  done = subprocess.run(program, check=False)
  if done.returncode == command.UserError.CODE:
    raise ValueError(f"ccl_jax.{name} refused its flags, as said above.")
  done.check_returncode()


def collect(
  measured: Sequence[Mapping[Run, Measured]],
  rows: Mapping[str, Row],
  split: str,
  task: str,
) -> tuple[dict[str, list], list, list]:
  """Returns each row's clips, of all seeds together, the floor and the ceiling.

  Args:
    measured: for each seed, of each run.
  """

  def pooled(run: Run, name: str) -> list[synchworld.ClipScores]:
    same = (found[run][split][name] for found in measured)
    return [bootstrap.pool(clips) for clips in zip(*same, strict=True)]

  clips = {
    name: pooled(row.run, f"{task} {row.rule}") for name, row in rows.items()
  }
  run = next(iter(rows.values())).run
  known = measured[0][run][split]
  floor = f"blind {task}" if f"blind {task}" in known else "blind"
  return clips, pooled(run, floor), pooled(run, "codec ceiling")


def plot(output: epath.Path, names: Sequence[str]) -> None:
  """Plots every task's loss, a line for each run: the mean over its seeds."""
  from matplotlib.figure import Figure

  curves = {name: read_losses(output, name) for name in names}
  losses = sorted(set().union(*curves.values()))
  figure = Figure(figsize=(4 * len(losses), 3.5), layout="constrained")
  panels = figure.subplots(1, len(losses), squeeze=False)[0]
  for loss, axes in zip(losses, panels, strict=True):
    for name in names:
      if loss in curves[name]:
        axes.plot(*curves[name][loss], label=name)
    axes.set(title=loss.removeprefix("loss/"), xlabel="step", yscale="log")
    axes.grid(alpha=0.3)
  panels[0].legend()
  with replacing(output / "loss.png") as partial:
    figure.savefig(str(partial), format="png", dpi=100)


def read_losses(output: epath.Path, name: str) -> dict[str, tuple[Any, Any]]:
  """Returns (steps, mean over seeds) of the loss of each task and stream."""
  runs = [
    log.read_metrics(output / f"{name}_{seed}" / "run")
    for seed in range(SEEDS.value)
  ]
  keys = {k for lines in runs for m in lines for k in m if k.count("/") == 2}
  curves = {}
  for key in sorted(k for k in keys if k.startswith("loss/")):
    points = [
      {m["step"]: m[key] for m in lines if m.get(key) is not None}
      for lines in runs
    ]
    steps = sorted(set(points[0]).intersection(*points))
    mean = np.mean([[p[step] for step in steps] for p in points], axis=0)
    curves[key] = steps, mean
  return curves


if __name__ == "__main__":
  command.run(ablate, ("data", "clips", "output"))
