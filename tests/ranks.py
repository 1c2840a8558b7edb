"""What ranks of data-parallel tests import, ahead of all of them: `tests.processes` forks each from a process that has these in memory."""

import warnings

import torch

warnings.filterwarnings("ignore", category=FutureWarning)

import deepspeed.runtime.zero.stage3
import deepspeed.runtime.zero.stage_1_and_2
import diffusers.models.autoencoders.autoencoder_kl
import diffusers.models.transformers.transformer_sd3
import diffusers.models.unets.unet_2d
import diffusers.models.unets.unet_2d_condition
import torch.distributed
import transformers.models.clip.modeling_clip
import transformers.models.t5.modeling_t5

import genlib.engine.fit
import genlib.engine.zero
import tests.models.stages  # noqa: F401

torch.set_num_threads(1)
