"""Every flag and config key that a README names exists in the code."""

import ast
import pathlib
import re
import subprocess

import pytest

from ccl_jax.generation.sampling_config import SamplingConfig
from configs import avdit, ccl, icac, lora, pods
from tests.conftest import MARKERS

ROOT = pathlib.Path(__file__).parents[1]
LISTED = subprocess.run(
  ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()
DOCUMENTS = [name for name in LISTED if name.endswith(".md")]
MODULES = (
  "train", "sample", "encode", "evaluate", "ablate", "measure", "world", "app",
  "compile",
  "convert", "captions", "filter", "browse",
)  # fmt: skip
# Options of other programs: TensorBoard, pytest, and absl in all of ours.
OTHERS = {"logdir", "help", "helpfull", "durations"}


def calls(module):
  """The DEFINE_x(name, ...) of a command."""
  path = ROOT / "ccl_jax" / f"{module}.py"
  path = path if path.exists() else path.with_suffix("") / "__main__.py"
  for node in ast.walk(ast.parse(path.read_text())):
    name = getattr(getattr(node, "func", None), "attr", "")
    if name.startswith("DEFINE_") and isinstance(node.args[0], ast.Constant):
      yield node


def flags_of(module):
  fields = SamplingConfig.__dataclass_fields__ if module == "sample" else ()
  return {call.args[0].value for call in calls(module)} | set(fields)


def script_options():
  """Options of launchers, benchmarks and tests, wherever they stand in them."""
  scripts = [
    (ROOT / name).read_text()
    for name in LISTED
    if re.match(r"(launch|tests/(bench|budgets|conftest))/?.*\.(sh|py)$", name)
  ]
  return set(re.findall(r"--([a-z][a-z_-]+)", "\n".join(scripts)))


def config_keys():
  """Dotted names of all keys, sections included."""
  keys = set()

  def walk(section, prefix):
    for key, value in section.items():
      keys.add(f"{prefix}{key}")
      if isinstance(value, dict):
        walk(value, f"{prefix}{key}.")

  walk(ccl.get_config().to_dict(), "")
  walk(ccl.get_config("fusion=gated").to_dict(), "")
  walk(avdit.get_config().to_dict(), "")
  walk(icac.get_config().to_dict(), "")
  walk(lora.get_config().to_dict(), "")
  walk(pods.get_config("pod=v5e-4x4-two-slices").to_dict(), "")
  return keys


def read(name):
  """The text, with continued lines as one."""
  return re.sub(r"\\\n\s*", " ", (ROOT / name).read_text())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documented_flags_and_keys_exist(name):
  known = set().union(*map(flags_of, MODULES)) | script_options() | OTHERS
  keys = config_keys()
  for flag in re.findall(r"(?<![\w-])--([a-z][\w.-]*)", read(name)):
    flag = flag.rstrip(".-")
    if flag.startswith("config."):
      assert flag.removeprefix("config.") in keys, f"--{flag}"
    elif flag != "config":
      spelled = {flag, flag.replace("-", "_"), flag.removeprefix("no")}
      assert spelled & known, f"--{flag}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_configs_exist(name):
  keys, text = config_keys(), read(name)
  for link in re.findall(r"\]\(([^)#]+)", text):
    path = (ROOT / name).parent / link
    assert link.startswith("http") or path.exists(), link
  for file, arguments in re.findall(r"configs/(\w+)\.py:([\w=,.-]+)", text):
    files = {
      "avdit": avdit, "ccl": ccl, "icac": icac, "lora": lora, "pods": pods
    }  # fmt: skip
    files[file].get_config(arguments)
  for key in re.findall(r"`(?:config\.)?(\w+(?:\.\w+)+)`", text):
    is_file = key.endswith((".py", ".sh", ".md"))
    is_ours = key.split(".")[0] in keys and not is_file
    assert key in keys or not is_ours, key


@pytest.mark.parametrize("module", MODULES)
def test_a_documented_command_has_its_flags(module):
  flags = flags_of(module) | {"config", "help"}
  for name in DOCUMENTS:
    for line in read(name).splitlines():
      call = re.search(rf"python -m ccl_jax\.{module}\b([^|#`]*)", line)
      for flag in re.findall(r" --(\w+)(?![\w-])", call[1] if call else ""):
        assert {flag, flag.removeprefix("no")} & flags, f"{name}: {line}"


@pytest.mark.parametrize("module", MODULES)
def test_every_flag_explains_itself(module):
  """Each help text is a sentence, and no two are the same."""
  texts = []
  for call in calls(module):
    words = [a.value for a in call.args[1:] if isinstance(a, ast.Constant)]
    texts += [w for w in words if isinstance(w, str) and " " in w]
  assert texts and len(texts) == len(set(texts))
  assert all(t[0].isupper() and t.endswith(".") for t in texts), texts


def test_every_line_of_the_table_of_markers_marks_a_file():
  for start in {x for starts in MARKERS.values() for x in starts}:
    assert list((ROOT / "tests").glob(f"{start.partition('::')[0]}*")), start
