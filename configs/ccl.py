"""Cross-Modal Context Learning: the paper's run, and sizes of it.

    python -m ccl_jax.train --config=configs/ccl.py:size=14b,stage=joint \
        --workdir=DIR --config.data.path=DIR

Arguments (`size=...,stage=...`), the first of each unless given:
  size   14b   the paper's: Wan2.1-14B video, a 1.9B audio stream
         1.3b  Wan2.1-1.3B video, an audio stream of half its width
         tiny  learns the synthetic world on two CPU cores in minutes
  stage  joint  five tasks mixed in one batch (section 4.4)
         audio  text-to-audio pre-training of the audio stream alone
         video  the same of the video stream (the paper takes Wan2.1's)
  fusion  cca, gated (the paper's baseline), independent
  fsdp_over  pod    parameters are split over all that is not context or tensor
         slice  over fsdp only: a copy in each slice, which `data` connects

Marks: [P] the paper's text, [S] second-hand, [O] our choice.
"""

from ml_collections import ConfigDict

SIZES = ("14b", "1.3b", "tiny")
STAGES = ("joint", "audio", "video")
FSDP_OVER = ("pod", "slice")
FUSIONS = ("cca", "gated", "independent")


def parse_arguments(text: str) -> dict[str, str]:
  """`"size=tiny,stage=joint"` -> dict; unknown names and values raise."""
  known = {
    "size": SIZES, "stage": STAGES, "fusion": FUSIONS, "fsdp_over": FSDP_OVER,
  }  # fmt: skip
  given = {name: values[0] for name, values in known.items()}
  for item in filter(None, text.split(",")):
    name, _, value = item.partition("=")
    if name not in known:
      raise ValueError(f"config argument '{item}': expected {list(known)}.")
    if value not in known[name]:
      raise ValueError(f"config {name}='{value}': expected {known[name]}.")
    given[name] = value
  return given


def get_config(arg: str = "") -> ConfigDict:
  """The config; every value can be overridden by `--config.a.b=value`."""
  chosen = parse_arguments(arg)
  c = ConfigDict()
  c.seed = 0
  c.num_train_steps = 12_000  # [P]; ablations 6,000
  c.batch_size = 320  # [P]; ablations 128
  c.grad_accumulation_steps = (
    1  # parts of a batch that go through the model in turn
  )

  # For the compiler: (("xla_...", value), ...), or names of groups of such.
  c.xla_options = ()

  # Mesh axes; -1 is "the rest of the devices". num_slices: joined by `data`.
  c.mesh = dict(data=1, fsdp=-1, context=1, tensor=1, num_slices=1)
  c.sharding = ConfigDict()  # see ccl_jax/sharding.py
  c.sharding.self_attention = "gather"  # or "ulysses", over `context`
  c.sharding.max_unsharded = 0.02
  split = {"pod": ("fsdp", "data"), "slice": "fsdp"}[chosen["fsdp_over"]]
  c.sharding.params = (
    ("(.*/blocks|fusion)/.*/(q|k|v|up)/kernel", (None, split, "tensor")),
    ("(.*/blocks|fusion)/.*/(o|down)/kernel", (None, "tensor", split)),
    (".*/(up|time_rows)/kernel", (split, "tensor")),
    (".*/down/kernel", ("tensor", split)),
    (".*/embed/kernel", (None, split)),
    (".*/head/kernel", (split,)),
    (".*", ()),  # biases, norms, modulation, context tokens
  )
  rows = ("data", "fsdp")
  c.sharding.activations = (
    ("video/tokens", (rows, "context")),
    ("audio/tokens", (rows,)),
    ("video/heads", (rows, "context", "tensor")),
    ("audio/heads", (rows, None, "tensor")),
    ("text", (rows,)),
  )

  c.encode = ConfigDict()
  c.encode.codec = "linear"  # fitted; "wan": learned, of these files
  c.encode.weights = dict(  # image: CLIP, only for what reads its tokens
    video="", audio="", vocoder="", text="", tokenizer="", image=""
  )
  c.encode.video_options = dict(chunk=1, tile=0, overlap=64)
  c.encode.audio_options = dict(scale=1.0, window=512)
  c.encode.fps = 25.0  # [O]: c = 5 audio latents a frame is then exact
  c.encode.frames = 121  # [O] 1 + 4k; 31 latent frames
  c.encode.size = (352, 640)  # [S] the one resolution
  c.encode.video_channels = 16
  c.encode.audio_channels = 20
  c.encode.text_length = 512
  c.encode.text_width = 4096
  c.encode.validation_fraction = 0.02
  c.encode.num_fit_clips = 200
  c.encode.batch_size = 8  # clips at once, over a host's devices
  c.encode.clips_per_shard = 256  # clips in a file
  c.encode.keep_logvar = True  # so that training draws latents
  c.encode.num_workers = 2
  c.encode.need_video = True  # False keeps sounds without a picture
  c.encode.need_audio = True  # False keeps silent videos
  c.encode.need_caption = True

  c.data = ConfigDict()
  c.data.path = ""
  c.data.split = "train"
  c.data.sample_posterior = True  # draw latents anew where they have a variance
  c.data.num_threads = 2  # threads that read ahead

  c.model = ConfigDict()
  c.model.num_layers = 40
  c.model.text_width = 4096  # umT5-xxl
  c.model.dtype = "bfloat16"
  c.model.remat = "full"
  c.model.scan = True
  c.model.backend = None
  c.model.video = dict(
    width=5120, ffn=13824, heads=40, channels=16, patch=2,
    condition_channels=0, image_width=0,  # Wan2.1-I2V: 20 and 1280
  )  # fmt: skip
  c.model.audio = dict(  # [O]; the paper says only "fewer channels"
    width=1536, ffn=8960, heads=12, channels=20, tokens_per_frame=5
  )
  c.model.fusion = ConfigDict()
  c.model.fusion.kind = "cca"
  c.model.fusion.num_audio_lct = 8  # [P] LCT that stand for audio
  c.model.fusion.num_video_lct = 128  # [P] LCT that stand for video
  c.model.fusion.tarp = True
  c.model.fusion.dcr = True
  c.model.fusion.positions = "index"
  c.model.fusion.audio_window_radius = 1  # [S] window of three frames' audio
  c.model.fusion.video_window_radius = 0  # [P] window of one frame's video
  c.model.fusion.fps = 25.0

  c.objective = ConfigDict()
  c.objective.time_shift = 5.0  # [O] as Wan's sampler
  c.objective.time_mean = 0.0  # [O] logit-normal
  c.objective.time_std = 1.0
  c.objective.video_weight = 0.85  # [O] as Ovi
  c.objective.audio_weight = 0.15
  c.objective.text_dropout = 0.1  # [O]
  c.objective.first_frame_probability = 0.5  # [O] the image-to-video share
  # apart, audio->video, video->audio, joint [P]
  c.objective.probabilities = (0.10, 0.15, 0.15, 0.60)

  c.optimizer = ConfigDict()
  # (path regex, peak rate), first match wins; rate 0 freezes.
  c.optimizer.learning_rates = (("fusion/.*", 1e-4), (".*", 1e-5))  # [P], [S]
  c.optimizer.b1 = 0.9  # [O]
  c.optimizer.b2 = 0.95  # [O] as Ovi
  c.optimizer.eps = 1e-8
  c.optimizer.weight_decay = 0.01  # [O] on matrices only
  c.optimizer.clip_global_norm = 1.0  # [O] global norm
  c.optimizer.warmup_steps = 500  # [O]
  c.optimizer.schedule = "constant"  # or "cosine", to zero at the last step
  c.optimizer.ema_decay = 0.9999  # [O]

  # Parameters of earlier runs: ((path regex, workdir), ...); regexes of `fresh`
  # are the paths that no earlier run has.
  c.init = dict(from_runs=(), fresh=(".*",))

  c.checkpoint = dict(save_interval_steps=500, max_to_keep=3)
  # max_nonfinite_steps: steps in a row that are not finite before the run ends;
  # profile_steps: (first, last + 1) of the steps to trace, or ().
  c.log = dict(every_steps=10, max_nonfinite_steps=20, profile_steps=())

  c.sampling = ConfigDict()  # defaults of sample and evaluate
  c.sampling.solver = "unipc"
  c.sampling.num_inference_steps = 50
  c.sampling.shift = 5.0
  c.sampling.guidance = "ucg2"
  c.sampling.video_guidance_scale = 4.0  # [O]
  c.sampling.audio_guidance_scale = 3.0  # [O]
  c.sampling.cross_guidance_scale = 2.5  # [O]
  c.sampling.audio_cross_guidance_scale = None  # as cross_guidance_scale
  c.sampling.guidance_low, c.sampling.guidance_high = 0.0, 1.0  # sigmas
  c.sampling.guidance_rescale = 0.0
  c.sampling.batch_passes = (
    True  # False: a pass after the other, in less memory
  )
  c.sampling.cache_reference = True

  c.eval = dict(
    every_steps=1000, split="validation", num_clips=4, tasks=("t2av", "a2v")
  )
  {"14b": lambda c: None, "1.3b": small, "tiny": tiny}[chosen["size"]](c)
  if chosen["fusion"] == "gated":
    c.model.fusion = dict(
      kind="gated", tarp=False, positions=c.model.fusion.positions, fps=25.0
    )
  if chosen["fusion"] == "independent":
    c.model.fusion = dict(kind="independent")
    c.optimizer.learning_rates = c.optimizer.learning_rates[-1:]
  if chosen["stage"] != "joint":
    alone(c, chosen["stage"])
  if chosen["stage"] == "audio" and chosen["size"] != "tiny":
    # Pre-training: 160k steps of batch 3200 at rate 1e-4 [P, S].
    c.num_train_steps, c.batch_size = 160_000, 3200
    c.optimizer.learning_rates = ((".*", 1e-4),)
  c.lock()
  return c


def small(c: ConfigDict) -> None:
  """Wan2.1-1.3B and an audio stream of half its width [O]."""
  c.model.num_layers = 30
  c.model.video.update(width=1536, ffn=8960, heads=12)
  c.model.audio.update(width=768, ffn=4480, heads=6)


def alone(c: ConfigDict, stream: str) -> None:
  """One stream without the other, and without a fusion."""
  c.model["video" if stream == "audio" else "audio"] = None
  c.model.fusion = dict(kind="independent")
  c.objective.probabilities = (1.0, 0.0, 0.0, 0.0)
  c.eval.tasks = ("t2a",) if stream == "audio" else ("t2v",)
  c.optimizer.learning_rates = c.optimizer.learning_rates[-1:]
  if stream == "audio":
    c.objective.first_frame_probability = 0.0


def tiny(c: ConfigDict) -> None:
  """Everything small and from scratch: 2 s of 64 x 64 on two CPU cores.

  What made it learn in minutes, each found by trying: few latent channels (a
  token of more numbers than the width can hold starves everything else, and
  the last principal components of sound are noise), LCT in proportion to the
  window, positions fine enough to tell audio latents apart.
  """
  c.num_train_steps, c.batch_size = 1700, 16
  c.sharding.max_unsharded = 0.1
  c.encode.frames, c.encode.size = 49, (64, 64)
  c.encode.video_channels, c.encode.audio_channels = 8, 8
  c.encode.text_length, c.encode.text_width = 32, 64
  c.model.num_layers, c.model.text_width = 3, 64
  # Three layers: unrolled, and with all kept, a CPU's step is faster.
  c.model.dtype, c.model.remat, c.model.scan = "float32", "none", False
  c.model.video.update(width=64, ffn=256, heads=2, channels=8)
  c.model.audio.update(width=64, ffn=256, heads=2, channels=8)
  c.model.fusion.num_audio_lct, c.model.fusion.num_video_lct = 2, 2
  c.model.fusion.positions, c.model.fusion.video_window_radius = "fine", 1
  c.objective.time_shift = 1.0
  c.objective.first_frame_probability = 0.0
  c.optimizer.learning_rates = ((".*", 3e-3),)
  c.optimizer.warmup_steps, c.optimizer.schedule = 50, "cosine"
  c.optimizer.ema_decay = 0.995
  c.checkpoint = dict(save_interval_steps=500, max_to_keep=2)
  c.log.every_steps = 20
  c.sampling.num_inference_steps, c.sampling.shift = 20, 1.0
  c.sampling.video_guidance_scale = c.sampling.audio_guidance_scale = 3.0
  c.eval.every_steps = 2000  # none on the way: it takes as long as 100 steps
