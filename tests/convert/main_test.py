"""python -m ccl_jax.convert, from the flags to the files."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import commands
from tests.convert import small_run

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "ccl_jax.convert", *map(str, arguments)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def test_inspect(tmp_path):
  arrays = {f"blocks.{i}.w": np.zeros((2, 3), np.float16) for i in range(12)}
  arrays["head.bias"] = np.zeros(5, np.float32)
  save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
  done = run("inspect", tmp_path / "x.safetensors")
  assert done.returncode == 0, done.stderr
  rows = [line.split() for line in done.stdout.splitlines()]
  assert ["format:", "pt"] in rows
  assert ["12", "x", "blocks.*.w", "(2,", "3)", "float16"] in rows
  assert ["1", "x", "head.bias", "(5,)", "float32"] in rows
  assert ["blocks", "12", "72", "0.000"] in rows
  assert ["all", "13", "77", "0.000"] in rows


def test_errors_are_one_line(tmp_path):
  flags = ("--model=wan", f"--input={tmp_path}/no.pth", f"--output={tmp_path}")
  for arguments, expected in (
    (
      ("from-jax",),
      "expected a command: from-torch, to-torch, average, merge, inspect.",
    ),
    (
      ("from-torch", *flags, "--force"),
      f"--output={tmp_path} holds the input '{tmp_path}/no.pth': choose another"
      " --output.",
    ),
  ):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr == f"error: {expected}\n"


def test_a_pth_file_without_torch_is_one_line(tmp_path):
  torch = pytest.importorskip("torch")
  torch.save({"w": torch.zeros(2)}, tmp_path / "x.pth")
  status, text = commands.call("convert", "inspect", tmp_path / "x.pth")
  assert status == 2
  assert text.startswith(f"error: '{tmp_path}/x.pth' needs PyTorch")
  assert text.count("\n") == 1


def test_a_run_to_torch_and_the_mean_of_its_steps(tmp_path):
  workdir = small_run.write(tmp_path / "run")
  done = run(
    "to-torch", f"--workdir={workdir}", f"--output={tmp_path}/x", "--step=2",
    "--noema", "--max_shard_size=100KB",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert " parameters of step 2, in float32." in done.stdout
  found = sorted(path.name for path in (tmp_path / "x").iterdir())
  assert found == ["README.md", "run", "scheduler", "transformer"]
  status, text = commands.call("convert", "inspect", tmp_path / "x")
  assert status == 0 and text.startswith("shown: transformer\n"), text
  count = re.search(r"with ([\d,]+) parameters", done.stdout)[1]
  rows = [line.split() for line in text.splitlines()]
  assert count in next(row for row in rows if row[:1] == ["all"])
  for at in ("run", "run/checkpoints", "."):  # the run, a part, and around
    status, text = commands.call(
      "convert", "to-torch", f"--workdir={workdir}/checkpoints/2",
      f"--output={tmp_path}/{at}", "--force",
    )  # fmt: skip
    assert status == 2 and text.count("\n") == 1, text
    assert "choose another --output" in text
  assert (workdir / "checkpoints" / "2").exists()
  for force in ((), ("--force",)):  # what was exported is replaced
    status, text = commands.call(
      "convert", "to-torch", f"--workdir={workdir}", f"--output={tmp_path}/x",
      "--component=video", *force,
    )  # fmt: skip
    assert (status == 0) == bool(force), text
  found = sorted(path.name for path in (tmp_path / "x").iterdir())
  assert found == ["README.md", "scheduler", "transformer"]
  done = run(
    "average", f"--workdir={workdir}", f"--output={tmp_path}/mean",
    "--steps=1,2",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "/mean: mean of steps 1, 2, " in done.stdout
  status, text = commands.call(
    "convert", "merge", f"--workdir={workdir}", f"--lora={tmp_path}/mean:0.8",
    f"--output={tmp_path}/mean", "--force",
  )  # fmt: skip
  assert status == 2 and "mean is the input" in text
  assert (tmp_path / "mean" / "about.json").exists()
