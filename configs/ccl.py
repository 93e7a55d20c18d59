"""Cross-Modal Context Learning (CCL): the paper's run, and variants of it.

    python -m ccl_jax.train --config=configs/ccl.py:size=14b,stage=joint \
        --workdir=DIR --config.data.path=DIR

Arguments after the colon, with the default first:
  size       14b    the paper's: Wan2.1-14B video, a 1.9B audio stream
             1.3b   Wan2.1-1.3B video, an audio stream of half that width
             tiny   for the synthetic data, on two CPU cores in minutes
             tiny-english   the same for English sentences, in hours
  stage      joint  five tasks mixed in one batch (section 4.4)
             audio  text-to-audio pre-training of the audio stream alone
             video  the same of the video stream (the paper takes Wan2.1's)
  fusion     cca, gated (the paper's baseline), independent
  fsdp_over  pod    parameters are split over the mesh axes fsdp and data
             slice  over fsdp only: each slice has a copy, `data` joins slices
             context  over fsdp and context: for little memory

Where a value comes from: [P] the paper, [S] second-hand, [O] our choice.
"""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

# Mesh axes over which parameters are split, by `fsdp_over`.
SPLITS = {
  "pod": ("fsdp", "data"),
  "slice": "fsdp",
  "context": ("fsdp", "context"),
}
CHOICES = {
  "size": ("14b", "1.3b", "tiny", "tiny-english"),
  "stage": ("joint", "audio", "video"),
  "fusion": ("cca", "gated", "independent"),
  "fsdp_over": tuple(SPLITS),
}


def parse_arg(arg: str, choices: Mapping[str, Sequence[str]]) -> dict[str, str]:
  """Returns "size=tiny,stage=joint" as a dict.

  Raises:
    ValueError: an unknown name or value.
  """
  chosen = {}
  for item in filter(None, arg.split(",")):
    name, _, value = item.partition("=")
    if name not in choices:
      raise ValueError(f"config argument '{item}': expected {list(choices)}.")
    if value not in choices[name]:
      raise ValueError(
        f"config {name}='{value}': expected {', '.join(choices[name])}."
      )
    chosen[name] = value
  return chosen


def get_config(arg: str = "") -> ConfigDict:
  """Returns the config; `--config.a.b=value` overrides any value."""
  return make_config(**parse_arg(arg, CHOICES))


def make_config(
  size: str = "14b",
  stage: str = "joint",
  fusion: str = "cca",
  fsdp_over: str = "pod",
) -> ConfigDict:
  """Returns the config of these arguments, see above."""
  c = ConfigDict()
  c.seed = 0
  c.num_train_steps = 12_000  # [P]; ablations 6,000
  c.batch_size = 320  # [P]; ablations 128
  c.grad_accumulation_steps = 1  # microbatches in a batch

  # XLA's: (("xla_...", value), ...), or groups of training/xla_options.py.
  c.xla_options = ()

  # Sizes of the mesh axes; -1 takes the remaining devices. `data` goes over the
  # slices of a multislice pod.
  c.mesh = dict(data=1, fsdp=-1, context=1, tensor=1, num_slices=1)
  c.sharding = ConfigDict()  # see ccl_jax/params/sharding.py
  c.sharding.self_attention = "gather"  # or "ulysses", over `context`
  c.sharding.max_unsharded = 0.02
  split = SPLITS[fsdp_over]
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
    ("batch", (rows,)),
  )

  c.encode = ConfigDict()
  c.encode.codec = "linear"  # or "conv", fitted to the clips; "wan" reads:
  c.encode.weights = dict(  # image: CLIP, for image_width > 0 only
    video="",
    audio="",
    vocoder="",
    text="",
    tokenizer="",
    image="",
    wav2vec2="",  # in place of audio and vocoder, for icac.py
  )
  c.encode.video_options = dict(chunk=1, tile=0, overlap=64)
  c.encode.audio_options = dict(scale=1.0, window=512)
  c.encode.fps = 25.0  # [O]; makes exactly 5 audio latents per latent frame
  c.encode.frames = 121  # [O] 1 + 4k; 31 latent frames
  c.encode.size = (352, 640)  # [S] the one resolution
  c.encode.buckets = ()  # or ((frames, y, x), ...), several shapes in one set
  c.encode.max_upscale = 1.5  # with buckets: of clips that are smaller
  c.encode.video_channels = 16
  c.encode.audio_channels = 20
  c.encode.text_length = 512
  c.encode.text_width = 4096
  c.encode.validation_fraction = 0.02
  c.encode.num_fit_clips = 200
  c.encode.batch_size = 8  # clips, over the devices of a host
  c.encode.clips_per_shard = 256
  c.encode.keep_logvar = True  # so that training can sample the posterior
  c.encode.num_workers = 2
  c.encode.need_video = True  # False keeps files without a video too
  c.encode.need_audio = True  # False keeps silent videos too
  c.encode.need_caption = True
  c.encode.windows = "first"  # or "all", or a number: examples of a clip
  c.encode.window_stride = 0.0  # seconds; 0 is a window's length
  c.encode.window_rest = 0.0  # seconds worth one more window; 0 is none

  c.data = ConfigDict()
  c.data.path = ""
  c.data.sources = ()  # ((path, weight), ...) instead of path: a mixture
  c.data.batch_tokens = 0  # of a batch of each shape; 0 is batch_size clips
  c.data.bucket_shares = "samples"  # or "tokens": how often clips are drawn
  c.data.split = "train"
  c.data.sample_posterior = True  # in each epoch, if it has a variance
  c.data.num_threads = 2  # for prefetching

  c.model = ConfigDict()
  c.model.num_layers = 40
  c.model.text_width = 4096  # umT5-xxl
  c.model.dtype = "bfloat16"
  c.model.remat = "full"
  c.model.scan = True
  c.model.backend = placeholder(str)
  c.model.video = dict(
    width=5120, ffn=13824, heads=40, channels=16, patch=2,
    condition_channels=0, image_width=0,  # Wan2.1-I2V: 20 and 1280
  )  # fmt: skip
  # tokens_per_frame: 4 * 31.25 / fps; train takes it, and fps, from the data.
  c.model.audio = dict(  # [O]; the paper says only "fewer channels"
    width=1536, ffn=8960, heads=12, channels=20, tokens_per_frame=5.0
  )
  c.model.fusion = ConfigDict()
  c.model.fusion.kind = "cca"
  # Learnable context tokens (LCT) that are read together with a stream.
  c.model.fusion.num_audio_lct = 8  # [P]
  c.model.fusion.num_video_lct = 128  # [P]
  c.model.fusion.tarp = True
  c.model.fusion.dcr = True
  c.model.fusion.positions = "index"
  c.model.fusion.audio_window_radius = 1  # [S] the audio of three frames
  c.model.fusion.video_window_radius = 0  # [P] the video of one frame
  c.model.fusion.fps = 25.0

  c.objective = ConfigDict()
  # Numbers, or one by stream: dict(video=5.0, audio=3.0).
  c.objective.time_shift = by_stream(5.0)  # [O] as Wan's sampler
  c.objective.time_shift_shape = ()  # (frames, y, x) that it is for; () is all
  c.objective.time_mean = by_stream(0.0)  # [O] logit-normal
  c.objective.time_std = by_stream(1.0)
  c.objective.time_distribution = "logit_normal"  # or "ddpm"
  c.objective.error = "velocity"  # or "noise", as DDPM's
  c.objective.video_weight = 0.85  # [O] as Ovi
  c.objective.audio_weight = 0.15
  c.objective.text_dropout = 0.1  # [O]
  c.objective.first_frame_probability = 0.5  # [O] the image-to-video share
  # apart, a2v, v2a, joint [P]: see diffusion/tasks.py
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
  c.optimizer.frozen_dtype = "float32"  # or "compute": of what has rate 0

  # from_runs: ((path regex, workdir), ...), parameters that earlier runs have
  # trained; fresh: regexes of the parameters that start from random values.
  c.init = dict(from_runs=(), fresh=(".*",))

  # A preemption without notice costs `every_minutes` of work, at most.
  # keep_best: a loss or a share by its name in metrics.jsonl, held_out/loss or
  # held_out/share/a2v/EAC; the best checkpoint is kept beside the latest.
  # emergency_folder: on each host's memory disk, such as /dev/shm/ccl: copies
  # between checkpoints, where slices have a copy of the state each.
  c.checkpoint = dict(
    save_interval_steps=500, every_minutes=30.0, max_to_keep=3, verify=True,
    keep_best="", emergency_folder="", emergency_every_steps=50,
  )  # fmt: skip
  # max_nonfinite_steps: in a row, then the run ends.
  # profile_steps: (first, last + 1) of the steps to trace, or ().
  # profiler_port: where process 0 gives traces to who asks for them; 0 is none.
  c.log = dict(
    every_steps=10, max_nonfinite_steps=20, profile_steps=(), profiler_port=0
  )

  c.sampling = ConfigDict()  # defaults of the flags of sample and evaluate
  c.sampling.solver = "unipc"
  c.sampling.num_inference_steps = 50
  c.sampling.shift = 5.0
  c.sampling.audio_shift = placeholder(float)  # as shift if unset
  c.sampling.guidance = "ucg2"
  c.sampling.video_guidance_scale = 4.0  # [O]
  c.sampling.audio_guidance_scale = 3.0  # [O]
  c.sampling.cross_guidance_scale = 2.5  # [O]
  # As cross_guidance_scale if unset.
  c.sampling.audio_cross_guidance_scale = placeholder(float)
  c.sampling.guidance_low, c.sampling.guidance_high = 0.0, 1.0  # sigmas
  c.sampling.guidance_every = 1
  c.sampling.guidance_rescale = 0.0
  c.sampling.guidance_transform = "none"  # or cfg_zero, apg
  c.sampling.apg_eta = c.sampling.apg_norm_threshold = 0.0
  c.sampling.apg_momentum = 0.0
  c.sampling.zero_init_steps = 0  # of CFG-Zero*
  c.sampling.batch_passes = True  # False: one guidance pass at a time
  c.sampling.cache_reference = True

  # loss_every_steps: a loss on loss_batches of the split, 0 for none.
  # all_shapes: previews of every shape, else of the first.
  # world: a synthetic world's folder, whose first num_scored clips of the split
  # are scored at each evaluation; "" for none.
  c.eval = dict(
    every_steps=1000, split="validation", num_clips=4, tasks=("t2av", "a2v"),
    loss_every_steps=0, loss_batches=4, all_shapes=False,
    world="", num_scored=16,
  )  # fmt: skip
  if size == "1.3b":
    use_1_3b(c)
  if size.startswith("tiny"):
    use_tiny(c)
  if size == "tiny-english":
    use_english(c)
  if fusion == "gated":
    c.model.fusion = dict(
      kind="gated", tarp=False, positions=c.model.fusion.positions, fps=25.0
    )
  if fusion == "independent":
    c.model.fusion = dict(kind="independent")
    c.optimizer.learning_rates = c.optimizer.learning_rates[-1:]
  if stage != "joint":
    keep_one_stream(c, stage)
  if stage == "audio" and not size.startswith("tiny"):
    # Pre-training: 160k steps of batch 3200 at rate 1e-4 [P, S].
    c.num_train_steps, c.batch_size = 160_000, 3200
    c.optimizer.learning_rates = ((".*", 1e-4),)
  c.lock()
  return c


def by_stream(value: float) -> FieldReference:
  """Returns a field that may be set to a number or to one by stream."""
  return FieldReference(value, field_type=object)


def use_1_3b(c: ConfigDict) -> None:
  """Sets the sizes of Wan2.1-1.3B; the audio stream has half its width [O]."""
  c.model.num_layers = 30
  c.model.video.update(width=1536, ffn=8960, heads=12)
  c.model.audio.update(width=768, ffn=4480, heads=6)


def keep_one_stream(c: ConfigDict, stream: str) -> None:
  """Removes the other stream and the fusion."""
  c.model["video" if stream == "audio" else "audio"] = None
  c.model.fusion = dict(kind="independent")
  c.objective.probabilities = (1.0, 0.0, 0.0, 0.0)
  c.eval.tasks = ("t2a",) if stream == "audio" else ("t2v",)
  c.optimizer.learning_rates = c.optimizer.learning_rates[-1:]
  if stream == "audio":
    c.objective.first_frame_probability = 0.0


def use_tiny(c: ConfigDict) -> None:
  """Sets a small model for clips of 2 s and 64 x 64, on two CPU cores.

  Found by trying, to learn in minutes: few latent channels (tokens with more
  values than the width can hold prevent learning, and the last principal
  components of sound are noise; with fewer of video, mouths stop moving), as
  many LCT as the window has tokens, positions that differ between the audio
  latents of a frame. Half of the samples have the other stream given, mostly
  the sound: a ball is harder to move than a click to time. At low noise it is
  seen where the ball is, so that nothing is learned of when it clicks: times
  are spread, and shifted to noise. A large scale smears what moves, and makes
  clicks that nothing strikes. Twice the steps of half the samples learn more.
  """
  c.num_train_steps, c.batch_size = 4000, 8
  c.sharding.max_unsharded = 0.1
  c.encode.frames, c.encode.size = 49, (64, 64)
  c.encode.video_channels, c.encode.audio_channels = 10, 8
  c.encode.text_length, c.encode.text_width = 32, 64
  c.model.num_layers, c.model.text_width = 3, 64
  # Without scan and recomputation, as this is faster on a CPU.
  c.model.dtype, c.model.remat, c.model.scan = "float32", "none", False
  c.model.video.update(width=64, ffn=256, heads=2, channels=10)
  c.model.audio.update(width=64, ffn=256, heads=2, channels=8)
  c.model.fusion.num_audio_lct, c.model.fusion.num_video_lct = 2, 2
  c.model.fusion.positions, c.model.fusion.video_window_radius = "fine", 1
  c.objective.time_shift, c.objective.time_std = 2.0, 1.4
  c.objective.probabilities = (0.05, 0.4, 0.15, 0.4)
  c.objective.first_frame_probability = 0.0
  c.optimizer.learning_rates = ((".*", 2.5e-3),)
  c.optimizer.warmup_steps, c.optimizer.schedule = 100, "cosine"
  c.optimizer.ema_decay = 0.9975
  c.checkpoint.max_to_keep = 2
  c.log.every_steps = 50
  c.sampling.num_inference_steps, c.sampling.shift = 20, 1.0
  c.sampling.video_guidance_scale = c.sampling.audio_guidance_scale = 2.0
  c.eval.every_steps = 4000  # only at the end: it takes as long as 200 steps


def use_english(c: ConfigDict) -> None:
  """Sets what English sentences of 3 s need beside the tiny model's values.

  Sound needs more channels to be understood, and its stream the width to make
  them; the prompt's order of words counts. Half of the samples generate sound.
  """
  c.num_train_steps, c.batch_size = 20_000, 16
  c.encode.frames = 81
  c.encode.audio_channels = c.model.audio.channels = 24
  c.encode.text_width = c.model.text_width = 128
  c.model.audio.update(width=192, ffn=768, heads=4)
  c.objective.audio_weight = c.objective.video_weight = 0.5
  c.objective.probabilities = (0.3, 0.15, 0.25, 0.3)
  c.optimizer.learning_rates = ((".*", 2e-3),)
  c.eval.every_steps = 20_000
