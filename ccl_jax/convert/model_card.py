"""The model card of an export: what it is, how to run it, its licences."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from ccl_jax.array_types import STREAMS
from ccl_jax.convert import codecs
from ccl_jax.convert.workdirs import ABOUT, Workdir
from ccl_jax.params.lora import Changes, Full
from ccl_jax.storage.text_files import read_json

# Kind of a codec in codecs.json -> its name in `codecs.MODELS`, if another.
_PUBLISHED = {"wan_video": "wan-vae"}
_LOADING = {
  "CCL": """\
`ccl_jax/convert/torch_*.py` need only PyTorch and safetensors (`to-torch
--layout=single` writes one file with Wan's names instead). Latents are
encoded and decoded by the codecs in `run/`. There is no `model_index.json`, as
diffusers has no pipeline of two streams.

```python
from ccl_jax.convert.torch_model import CCL

model = CCL.from_pretrained("THIS FOLDER", device="cuda")
```

In JAX, to sample or to continue training:

```bash
python -m ccl_jax.convert from-torch --model=ccl \\
    --input="THIS FOLDER" --output=RUN
python -m ccl_jax.sample --workdir=RUN --output=OUT --task=t2av --prompt='...'
```
""",
  "single": """\
`ccl.safetensors` is one file with the config in its header. Its video part has
Wan2.1's own names (`blocks.0.self_attn.q.weight`), so that a program that loads
Wan's files finds it; `audio.*` and `fusion.*` stand beside it, where there are
such parts, and are left alone. What Wan's model computes with it is the video
stream without its cross-modal layers. All parts are read back by

```bash
python -m ccl_jax.convert from-torch --model=ccl \\
    --input="THIS FOLDER/ccl.safetensors" --output=RUN
```

The other layout, a folder (`to-torch` without `--layout=single`), is what
`ccl_jax/convert/torch_*.py` run in plain PyTorch.
""",
  "WanTransformer3DModel": """\
The video stream without its cross-modal layers, as Wan2.1's class
(`pip install torch safetensors diffusers accelerate`):

```python
from diffusers import WanTransformer3DModel

model = WanTransformer3DModel.from_pretrained("THIS FOLDER/transformer")
```

There is no `model_index.json`: a pipeline of diffusers also needs a VAE and a
text encoder, and those are Wan2.1's, not this run's. If the run was trained on
Wan's latents (`--config.encode.codec=wan`), take them from Wan2.1:

```python
from diffusers import UniPCMultistepScheduler, WanPipeline

scheduler = UniPCMultistepScheduler.from_pretrained("THIS FOLDER/scheduler")
pipeline = WanPipeline.from_pretrained(
  "Wan-AI/Wan2.1-T2V-14B-Diffusers", transformer=model, scheduler=scheduler
)
```

### What is exact

{exact}
""",
}
_WITH_CONTEXT = """\
Exact: the parameters, and the velocities of the stream alone, with no
cross-modal layers. **This is not the model's own text-to-video (t2v)**: there
each layer also reads the learnable context tokens (LCT) of the cross-modal
layers, for which diffusers' class has no place. Of a trained model the
velocities differ by 30 to 40 %. For its own t2v export with `--component=all`,
or sample with `python -m ccl_jax.sample`.
"""
_WITHOUT_CONTEXT = """\
Parameters, and velocities of text-to-video: this model's video reads no
learnable context tokens, so that nothing of its own t2v is left out.
"""
_TEXT = """\
# {class}, step {step}

A diffusion transformer for {kind}, trained with ccl_jax, an open implementation
of Cross-Modal Context Learning: {parameters:,} parameters in {dtype},
{averaged}.

## Prompts

One text describes picture and sound: what can be seen, spoken words in
quotation marks, and what can be heard.

    A man waves at the camera. "Hello!" Wind, and a warm voice.

{clip}

## Loading

{loading}
## Licences

Whoever trained these parameters chooses their licence. The models that were
used in training have licences of their own:

{licences}

## Config of the run

```json
{config}
```
"""
_LORA = """\
# LoRA, step {step}

Trained with ccl_jax on {base}: {matrices} matrices with a low-rank difference
(LoRA){and_full}, {parameters:,} parameters in {dtype}. alpha and ranks are in
the file's header. To a base of the same sizes it is added by

```bash
python -m ccl_jax.sample --workdir=BASE --lora="THIS FOLDER:0.8" ...
python -m ccl_jax.convert merge --workdir=BASE --lora="THIS FOLDER:0.8" \\
    --output=MERGED
```

{others}
{full}"""
_OTHERS = {
  "diffusers": """\
Its video part loads into diffusers (`pip install peft`); the audio and fusion
parts stand beside it under names that diffusers leaves alone.

```python
model.load_lora_adapter(  # a WanTransformer3DModel
  "THIS FOLDER", weight_name="pytorch_lora_weights.safetensors"
)
```

In plain PyTorch all of it does: `CCL.load_lora("THIS FOLDER", 0.8)`.
""",
  "comfyui": """\
Its video part loads into ComfyUI (as any LoRA of Wan's); the audio and fusion
parts are named there as not loaded.
""",
}
_FULL = """
## Trained in full

Beside the LoRA these parameters P were trained themselves:

{names}

At a scale s they become W + s (P - W), W being those of the base; so 1 is what
was trained, and several LoRA add up.
"""
_FULL_IN = {
  "diffusers": """\
In the file they are `lora_full.*`, which **diffusers leaves alone**: what it
generates lacks them.
""",
  "comfyui": """\
Those of the video are `*.set_weight`, whole in ComfyUI at any strength;
the others are `lora_full.*`, which **it leaves alone**.
""",
}


def lora_text(
  run: Workdir, about: Mapping[str, Any], changes: Changes, style: str
) -> str:
  """Returns the card of a LoRA as Markdown.

  Args:
    run: the run that trained it.
    about: step, parameters and dtype.
    changes: what it adds.
    style: of its names, one of `lora_names.STYLES`.
  """
  full = sorted(p for p, x in changes.items() if isinstance(x, Full))
  base = ", ".join(f"`{workdir}`" for workdir in _initial_workdirs(run))
  names = "\n".join(f"- `{path}` {changes[path].value.shape}" for path in full)
  return _LORA.format(
    **about,
    base=base or "an unknown base",
    matrices=len(changes) - len(full),
    and_full=f" and {len(full)} parameters in full" if full else "",
    others=_OTHERS[style],
    full=_FULL.format(names=names) + _FULL_IN[style] if full else "",
  )


def text(run: Workdir, about: Mapping[str, Any]) -> str:
  """Returns the card as Markdown.

  Args:
    run: the run that is exported.
    about: the facts that `export.to_torch` returns.
  """
  streams = [s for s in STREAMS if run.model.get(s) is not None]
  kind = " and ".join(streams if about["class"] == "CCL" else ["video"])
  clip = "Clips have the size that the run's codecs were made for."
  if run.clip:
    y, x = run.clip["size"]
    clip = (
      f"Clips have {run.clip['frames']} frames of {x} x {y} pixels at"
      f" {run.clip['fps']:g} a second."
    )
  is_single = about["layout"] == "single"
  loading = _LOADING["single" if is_single else about["class"]]
  averaged = "a moving average" if about["is_ema"] else "no moving average"
  return _TEXT.format(
    **about,
    kind=kind,
    averaged=averaged,
    clip=clip,
    loading=loading.replace("{exact}", _exact(run)),
    licences="\n".join(_licences(run)) or "- none are known.",
    config=json.dumps(dict(run.config), indent=2, sort_keys=True),
  )


def _exact(run: Workdir) -> str:
  """Returns what an export of the video stream alone computes exactly."""
  fusion = run.model.get("fusion") or {}
  reads = (
    fusion.get("kind", "cca") == "cca"
    and fusion.get("num_audio_lct") != 0
    and fusion.get("dcr", True)
  )
  return _WITH_CONTEXT if reads else _WITHOUT_CONTEXT


def _licences(run: Workdir) -> Iterator[str]:
  """Yields a line for each codec with weights and for each initial model."""
  file = run.path / "codecs" / "codecs.json"
  described = read_json(file) if file.exists() else {}
  for codec in described.values():
    name = _PUBLISHED.get(codec["kind"], codec["kind"])
    if model := codecs.MODELS.get(name):
      yield f"- codec {name}: {model.licence}. {model.notice}".rstrip()
  initial = dict.fromkeys(_initial_workdirs(run))
  for folder in [run.path, *map(epath.Path, initial)]:
    about = read_json(folder / ABOUT) if (folder / ABOUT).exists() else {}
    if "licence" in about:
      yield f"- initialised from {about['model']}: {about['licence']}"


def _initial_workdirs(run: Workdir) -> list[str]:
  """Returns the workdirs that a run took parameters of."""
  from_runs = run.config.get("init", {}).get("from_runs", ())
  return [workdir for _, workdir in from_runs]
