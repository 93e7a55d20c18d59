"""The arrows between the packages: lower never imports higher.

train sample encode evaluate measure world captions filter browse
compile.__main__ app.__main__ convert.__main__
                                         read flags; nobody imports them
  -> app  compile
  -> generation
  -> training  data  metrics  convert
  -> diffusion                           imports no model, and the reverse
  -> models  codecs
  -> attention  checkpoints
  -> cost                                reads programs, knows no model
  -> command                             flags and errors, of entry points only
  -> params  ops                         rules, sharding, LoRA; norms, CPU cases
  -> array_types  config  storage  processes  streams
"""

import ast
import graphlib
import pathlib
import re

import pytest

from ccl_jax.models.fusion.icac import ATTENTIONS

PACKAGE = pathlib.Path(__file__).parents[1] / "ccl_jax"
LAYERS = (
  {"array_types", "config", "storage", "processes", "streams"},
  {"params", "ops"},
  {"command"},
  {"cost"},
  {"attention", "checkpoints"},
  {"models", "codecs"},
  {"diffusion"},
  {"training", "data", "metrics", "convert"},
  {"generation"},
  {"app", "compile"},
  {"train", "sample", "encode", "evaluate", "ablate", "measure"}
  | {"world", "captions", "filter", "browse"}
  | {"compile.__main__", "app.__main__", "convert.__main__"},
)
LEVEL = {name: i for i, names in enumerate(LAYERS) for name in names}
# Same layer, but they may not meet; and outside libraries by place.
APART = {("diffusion", "models"), ("models", "codecs"), ("codecs", "models")}
FILES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_NNX = {
  "jit", "scan", "vmap", "grad", "remat", "Optimizer", "Dropout", "cond",
  "while_loop", "pmap", "shard_map", "value_and_grad", "with_partitioning",
}  # fmt: skip


def imports(path):
  """Full names of every module that a file imports, functions included."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def part(module):
  """ "ccl_jax.models.rope.rotate" -> "models"."""
  pieces = module.split(".")
  return pieces[1] if pieces[0] == "ccl_jax" and len(pieces) > 1 else None


def own_part(path):
  """The part of a file; a package's __main__ is one of its own."""
  parts = path.relative_to(PACKAGE).parts
  if parts[-1] == "__main__.py":
    return ".".join(parts).removesuffix(".py")
  return parts[0].removesuffix(".py")


@pytest.mark.parametrize(
  "path", FILES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_point_down(path):
  own = own_part(path)
  if own == "__init__":
    return
  assert own in LEVEL, f"{path} has no place in LAYERS"
  for module in imports(path):
    target = part(module)
    if target is None or target == own:
      continue
    assert target in LEVEL, f"{path} imports {module}"
    last = len(LAYERS) - 1
    is_sibling = LEVEL[target] == LEVEL[own] and LEVEL[own] not in (0, last)
    assert LEVEL[target] < LEVEL[own] or LEVEL[own] == 0 or is_sibling, (
      f"{path} imports {module}: an arrow that points up"
    )
    assert (own, target) not in APART, f"{path} imports {module}"


def test_entry_points_are_the_only_ones_with_flags():
  entries = LAYERS[-1]
  for path in FILES:
    used = imports(path)
    flags = {
      m
      for m in used
      if m.startswith(("absl.flags", "absl.app", "ml_collections"))
    }
    if own_part(path) not in entries | {"command"}:
      assert not flags, (path, flags)
      assert "command" not in map(part, used), path


def test_no_circle_of_packages():
  above = {}
  for path in FILES:
    own = own_part(path)
    above.setdefault(own, set()).update(filter(None, map(part, imports(path))))
  graph = {own: below - {own} for own, below in above.items()}
  graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_torch_and_no_tensorflow():
  for path in FILES:
    roots = {m.split(".")[0] for m in imports(path)}
    allowed = {"torch"} if own_part(path) == "convert" else set()
    assert not roots & {"torch", "tensorflow", "pickle"} - allowed, path


def test_flax_is_only_a_pytree_of_parameters():
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        forbidden = node.value.id == "nnx" and node.attr in FORBIDDEN_NNX
        assert not forbidden, f"{path}:{node.lineno} uses nnx.{node.attr}"


def test_top_level_is_what_the_user_fixed():
  import subprocess

  root = PACKAGE.parent
  listed = subprocess.run(
    ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True
  )
  top = {line.split("/")[0] for line in listed.stdout.splitlines()}
  visible = {name for name in top if not name.startswith(".")}
  assert visible <= {
    "ccl_jax", "configs", "launch", "tests", "requirements.txt", "README.md",
  }  # fmt: skip


def test_nothing_around_the_model_asks_for_the_name_of_a_variant():
  """Hooks and configs carry ICAC and AV-DiT, not branches."""
  variants = ["icac", "av-?dit", *ATTENTIONS]
  names = re.compile("|".join(variants), re.IGNORECASE)
  around = ("train.py", "sample.py", "training", "generation", "diffusion")
  files = [f for f in FILES if f.relative_to(PACKAGE).parts[0] in around]
  is_torch = re.compile(
    r"convert/torch_(in_context|adapters|adapter_layers).py$"
  )  # models
  files += [
    f
    for f in FILES
    if "convert" in f.parts and not is_torch.search(f.as_posix())
  ]
  assert len(files) > 50
  assert not [f for f in files if names.search(f.read_text())]
