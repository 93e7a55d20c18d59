r"""Scores a run on held-out clips of the synthetic world:

    python -m ccl_jax.evaluate --workdir=RUN --data=LATENTS --clips=WORLD \
        --output=DIR [--tasks=a2v,v2a,t2av] [--splits=easy,hard] [--num=32] \
        [--guidance=text,ucg2] [--seeds=3] [--size=64,64] [--seconds=1.96] \
        [--attention] [--sweep=EAC]

Generates clips from held-out prompts (and sound, or video) and prints, for each
split, their scores by `metrics.synchworld` (in a world of English by
`metrics.english`), beside the scores of

  - the ground truth: the clips themselves;
  - the codecs' ceiling: the clips encoded and decoded;
  - the best blind generators (`metrics.blind`), which read the prompt but not
    the sound or the video, through the same codecs;
  - shuffled clips: the sound of another clip with as many words.

The first table has the headline: the share of the way from blind to ceiling
that each row goes. All is measured on decoded pixels and sound.

Guidance rules of --guidance are compared on the same prompts and noise: each
has a row, and all but the first have another row with the gain over the first.
With --seeds=N every clip is generated N times; intervals are those of drawing
other prompts, each with all its clips. `ucg2:3` is a rule with its scale;
--sweep chooses the best scale of each rule on clips that are not scored.
--attention measures how well attention on the context tokens separates
background from foreground.

Writes results.json (all tables, and each clip's totals and counts), table.md,
the first seed's clips as mp4, sheet.png, and SPLIT_attention.png.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm
from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.data import contact_sheet, records
from ccl_jax.data.clip import ClipShape, FileNames, GeneratedClip
from ccl_jax.data.loader import read_clips
from ccl_jax.diffusion import tasks
from ccl_jax.generation import requests
from ccl_jax.generation.clip_shapes import choose_shape
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.sampling import AttentionProbe, first_middle_last
from ccl_jax.generation.scored_worlds import World, open_world, share_settings
from ccl_jax.metrics import attention_auc, bootstrap, sweep, synchworld, tables
from ccl_jax.storage.files import check_folder, replacing
from ccl_jax.storage.text_files import write_json

WORKDIR = flags.DEFINE_string(
  "workdir", None, "Workdir of the training run to score."
)
DATA = flags.DEFINE_string("data", None, "Folder of encoded held-out clips.")
SHAPE = command.define_shape("clips of the data")
CLIPS = flags.DEFINE_string(
  "clips", None, "Folder of the same clips before encoding, for ground truth."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.")
TASKS = flags.DEFINE_list(
  "tasks", ["a2v", "v2a", "t2av"], "Tasks to score, separated by commas."
)
SPLITS = flags.DEFINE_list(
  "splits", ["easy", "hard"], "Splits of the data, separated by commas."
)
NUM = flags.DEFINE_integer(
  "num", 32, "Clips of each split, at most.", lower_bound=2
)
STEP = command.define_step()
GUIDANCE = flags.DEFINE_list(
  "guidance", [], "Guidance rules to compare, RULE, RULE:SCALE or, for rules of"
  " two scales, RULE:TEXT:CROSS; the run's own if unset.",
)  # fmt: skip
SWEEP = flags.DEFINE_enum(
  "sweep", None, list(synchworld.SCORES), "Of each rule in --guidance, keep the"
  " scales that are best by this score, on the --num clips after those that are"
  " scored; all if unset.",
)  # fmt: skip
ATTENTION = flags.DEFINE_bool(
  "attention", False, "Measure and plot which share of cross-modal attention is"
  " on the context tokens.",
)  # fmt: skip
SEEDS = flags.DEFINE_integer(
  "seeds", 1, "How often each clip is generated.", lower_bound=1
)
SHOWN = 3  # clips of each setting and split in sheet.png

# (task,), or (task, guidance rule).
Setting = tuple[str, ...]


def evaluate() -> None:
  """Generates, saves and scores the clips of every split and setting.

  Raises:
    ValueError: a flag names something that does not exist.
  """
  settings = list_settings()
  output = check_folder(OUTPUT.value)
  data, shape = choose_data(DATA.value, **SHAPE.read())
  pipeline = Pipeline.load(
    WORKDIR.value, STEP.value, size=shape.size, seconds=shape.seconds
  )
  for name in TASKS.value:
    pipeline.check_task(tasks.inference_task(name))
  world = open_world(pipeline, CLIPS.value)
  probe = make_probe(pipeline)
  results, texts, strips = {}, [], []
  for split in SPLITS.value:
    clips = read_clips(data, split, NUM.value)
    chosen = settings
    if SWEEP.value:
      chosen, text = sweep_scales(world, settings, data, split)
      texts.append(text)
    references, measured, attention = world.references(clips), {}, {}
    for setting in tqdm.tqdm(chosen, desc=f"sample {split}", unit="row"):
      made, measured[setting], found = generate(world, clips, probe, *setting)
      attention[" ".join(setting)] = found
      save_clips(output / split, setting, clips["name"], made)
      strips += [
        (f"{split} {' '.join(setting)}: {text}", x.video, x.mel)
        for text, x in zip(clips["caption"], made[:SHOWN], strict=False)
      ]
    known = {(name,): x for name, x in references.items()} | measured
    results[split] = {
      "shares": share_settings(measured, references),
      "scores": score_settings(known),
      "clips": {" ".join(s): x for s, x in known.items()},
    }
    title = f"{split}, {len(clips['name'])} clips, step {pipeline.step}"
    shares, scores = results[split]["shares"], results[split]["scores"]
    texts.append(tables.report(title, shares, "Scores", scores))
    if probe:
      rows = attention_auc.summarize(attention, probe.layers)
      results[split]["attention"] = rows
      texts.append(attention_auc.report(f"{split}, attention", rows))
      attention_auc.plot(output / f"{split}_attention.png", rows)
  report = "\n".join(texts)
  print(report)
  with replacing(output / "table.md") as partial:
    partial.write_text(report)
  write_json(output / "results.json", results)
  sheet = output / "sheet.png"
  contact_sheet.save_png(sheet, contact_sheet.contact_sheet(strips))
  print(f"Clips in {output}, overview in {sheet}")


def choose_data(
  path: epath.PathLike, size: Sequence[int] = (), seconds: float | None = None
) -> tuple[epath.Path, ClipShape]:
  """Returns the data set of clips of a shape, and the shape.

  Args:
    path: of a data set of one shape or several; the first that fits is taken.
    size, seconds: as in `choose_shape`.

  Raises:
    ValueError: no data set, no clips of this shape, or some that are not square
      as those of the synthetic world are.
  """
  folders = {
    ClipShape.from_dict(metadata): folder
    for folder, metadata in records.list_buckets(path).items()
  }
  shape = choose_shape(list(folders), size, seconds)
  if shape.size[0] != shape.size[1]:
    raise ValueError(
      f"'{folders[shape]}' has clips of {shape} (frames x y x x): the synthetic"
      " world's are square. Choose others by --size and --seconds."
    )
  return folders[shape], shape


def list_settings() -> list[Setting]:
  """Returns each task with each guidance rule; ValueError for unknown ones."""
  for flag in (TASKS, SPLITS):
    if not flag.value:
      raise ValueError(f"--{flag.name} is empty: expected one or more.")
  names, rules = TASKS.value, GUIDANCE.value
  for name in names:
    tasks.inference_task(name)
  for rule in rules:
    sweep.parse_rule(rule)
  if SWEEP.value and not rules:
    raise ValueError(
      "--sweep: expected rules to choose from, as --guidance=ucg2:2,ucg2:3."
    )
  return list(itertools.product(*filter(None, (names, rules))))


def sweep_scales(
  world: World, settings: Sequence[Setting], data: epath.Path, split: str
) -> tuple[list[Setting], str]:
  """Returns each rule's best setting on other clips, and the table of all.

  Raises:
    ValueError: the split has too few clips.
  """
  clips = read_clips(data, split, NUM.value, start=NUM.value)
  num = len(clips["name"])
  if num < 2:
    raise ValueError(
      f"--sweep: '{split}' has {num} clips after the {NUM.value} that are"
      " scored, expected 2 or more; give a smaller --num."
    )
  bar = tqdm.tqdm(settings, desc=f"sweep {split}", unit="row")
  measured = {s: generate(world, clips, None, *s)[1] for s in bar}
  rows = {" ".join(s): bootstrap.aggregate(x) for s, x in measured.items()}
  table = tables.table(rows)
  text = f"### {split}, scales by {SWEEP.value} on {num} other clips\n\n"
  return sweep.best_scales(measured, SWEEP.value), f"{text}{table}\n"


def generate(
  world: World,
  clips: Mapping[str, Any],
  probe: AttentionProbe | None,
  name: str,
  *rule: str,
) -> tuple[
  list[GeneratedClip], list[synchworld.ClipScores], list[attention_auc.Found]
]:
  """Generates the prompts of clips with every seed.

  Splits and seeds share a program: only the noise and the prompts differ.

  Returns:
    The first seed's clips, each clip's measurements over all seeds, and the
    first seed's attention, if it is measured.
  """
  pipeline, num = world.pipeline, len(clips["name"])
  sampling = pipeline.sampling
  task = tasks.inference_task(name)
  if rule:
    sampling = dataclasses.replace(sampling, **sweep.parse_rule(rule[0]))
  first, measured, attention = [], [], []

  def finish(batch, latents, shares):
    made = pipeline.decode(batch, latents, shares)
    own = {s: x for s, x in shares.items() if s in task.generated}
    attention.extend(attention_auc.measure_batch(made, own) if own else ())
    return made

  for i in range(SEEDS.value):
    seeds = range(i * num, (i + 1) * num)
    pictures = pipeline.plan.reads_references
    items = requests.from_clips(task, clips, seeds, has_pictures=pictures)
    made = pipeline.generate(
      items, sampling=sampling, batch_size=num, finish=finish,
      probe=None if first else probe,
    )  # fmt: skip
    measured.append(world.measure(clips, made, task.given))
    first = first or made
  pooled = [bootstrap.pool(same) for same in zip(*measured, strict=True)]
  return first, pooled, attention


def make_probe(pipeline: Pipeline) -> AttentionProbe | None:
  """Returns the steps and layers of --attention; None without it."""
  if not ATTENTION.value:
    return None
  steps = first_middle_last(pipeline.sampling.num_inference_steps)
  layers = first_middle_last(pipeline.plan.num_layers)
  return AttentionProbe(steps, layers)


def score_settings(
  measured: Mapping[Setting, list[synchworld.ClipScores]],
) -> dict[str, bootstrap.Scores]:
  """Scores every setting, and its gain on the first rule of its task.

  A gain is called "TASK RULE - FIRST" and pairs clips prompt by prompt.
  """
  rows = {" ".join(s): bootstrap.aggregate(x) for s, x in measured.items()}
  for setting, clips in measured.items():
    first = next(other for other in measured if other[0] == setting[0])
    if setting != first:
      gain = bootstrap.compare(clips, measured[first])
      rows[f"{' '.join(setting)} - {first[-1]}"] = gain
  return rows


def save_clips(
  folder: epath.Path,
  setting: Setting,
  names: list[str],
  made: list[GeneratedClip],
) -> None:
  """Saves every clip as NAME_TASK.mp4, or NAME_TASK_RULE.mp4."""
  files = FileNames()
  row = "_".join(setting).replace(":", "-")
  for i, (name, item) in enumerate(zip(names, made, strict=True)):
    item.save(folder / f"{files.make(name, '', i)}_{row}.mp4")


if __name__ == "__main__":
  command.run(evaluate, ("workdir", "data", "output"))
