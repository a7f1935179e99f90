"""What the recording scripts share: importing single modules of other people's clones with what
they need and this machine lacks stubbed, and one tiny random network whose answers are kept.

The stubs stand for packages that the recorded functions never touch (loggers, configuration, type
annotations, CUDA extensions). No arithmetic is replaced.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import json
import subprocess
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

NUMBERS = Path(__file__).parent / "numbers"
TEXT = (3, 8)  # tokens, width
LATENT = (4, 4, 4)

# packages that only decorate, log, configure or draw on CUDA
MISSING = (
    "jaxtyping omegaconf typeguard pytorch_lightning tinycudann igl cv2 nerfacc xformers"
    " plyfile simple_knn diff_gaussian_rasterization audioop imageio tensorboard matplotlib"
    " lora_diffusion mcubes envlight tomesd nvdiffrast xatlas extern IPython"
    " controlnet_aux"
).split()


class Anything(type):
    """A class that can be subscripted, called, subclassed and used as a decorator."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Blank

    def __getitem__(cls, _):
        return cls

    def __call__(cls, *args, **kwargs):
        if len(args) == 1 and callable(args[0]) and not kwargs:
            return args[0]
        return super().__call__()


class Blank(metaclass=Anything):
    pass


class StubModule(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Blank


class StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return StubModule(spec.name)

    def exec_module(self, module):
        pass


def package(name, folder, **attributes):
    """A package whose modules come from ``folder``, but whose own __init__ is not run."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    vars(module).update(attributes)
    sys.modules[name] = module
    if "." in name:
        parent, _, own = name.rpartition(".")
        setattr(sys.modules[parent], own, module)
    return module


@contextlib.contextmanager
def clone(folder, *packages, **attributes):
    """Inside, the clone's ``packages`` can be imported; afterwards they are forgotten again."""
    before, finder = set(sys.modules), StubFinder()
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, str(folder))
    try:
        for name in packages:
            top = name.split(".")[0]
            own = attributes if name == top else {}
            package(name, Path(folder, *name.split(".")), **own)
        yield importlib.import_module
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.split(".")[0] in {p.split(".")[0] for p in packages} | {*MISSING}:
                del sys.modules[name]


def threestudio(folder):
    """A clone of threestudio or of one of its forks."""

    def quiet(*_, **__):
        pass

    names = ("", ".utils", ".models", ".models.guidance", ".models.prompt_processors", ".data")
    return clone(
        folder,
        *("threestudio" + name for name in names),
        register=lambda name: lambda cls: cls,
        info=quiet,
        debug=quiet,
        warn=quiet,
    )


def bare(cls, **attributes):
    """An object of the class that was never configured: what a function reads is given by hand."""
    made = cls.__new__(cls)
    if isinstance(made, torch.nn.Module):
        torch.nn.Module.__init__(made)
    for name, value in attributes.items():
        object.__setattr__(made, name, value)
    return made


def commit(folder):
    """The clone's commit; a plain copy names it in a file COMMIT."""
    named = Path(folder, "COMMIT")
    if named.exists():
        return named.read_text().strip()
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    return subprocess.check_output(command, text=True).strip()


def write(name, tensors, **about):
    """One file of numbers; ``about``: repository, commit, function and settings, as one JSON text,
    since the order of several metadata is not kept.
    """
    NUMBERS.mkdir(exist_ok=True)
    kept = {
        key: torch.as_tensor(value).detach().contiguous().clone() for key, value in tensors.items()
    }
    metadata = {"about": json.dumps(about, sort_keys=True)}
    save_file(kept, str(NUMBERS / f"{name}.safetensors"), metadata=metadata)
    print(f"{name}: {sum(v.nbytes for v in kept.values()) / 1000:.0f} kB")


class Network:
    """A tiny random U-Net in double precision that remembers every row it was asked."""

    def __init__(self, seed=0):
        from diffusers import UNet2DConditionModel

        torch.manual_seed(seed)
        self.unet = UNet2DConditionModel(
            sample_size=LATENT[1],
            in_channels=LATENT[0],
            out_channels=LATENT[0],
            block_out_channels=(16, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=TEXT[1],
            attention_head_dim=4,
            norm_num_groups=4,
        ).double()
        with torch.no_grad():  # so that the text says something
            for key, weight in self.unet.named_parameters():
                if "attn2" in key:
                    weight.mul_(6)
        self.rows = []

    def __call__(self, z, t, encoder_hidden_states=None, **_):
        assert z.dtype == torch.float64, z.dtype
        t = torch.as_tensor(t).reshape(-1).expand(len(z))
        with torch.no_grad():
            out = self.unet(z, t, encoder_hidden_states=encoder_hidden_states).sample
        answers = zip(z, t.long(), encoder_hidden_states, out, strict=True)
        self.rows += [tuple(part.detach().clone() for part in row) for row in answers]
        return types.SimpleNamespace(sample=out)

    def taken(self, prefix=""):
        """The rows asked since the last time, as tensors."""
        z, t, text, out = (torch.stack(part) for part in zip(*self.rows, strict=True))
        self.rows = []
        return {
            f"{prefix}net.z": z,
            f"{prefix}net.t": t,
            f"{prefix}net.text": text,
            f"{prefix}net.out": out,
        }


def scheduler(**changes):
    """Stable Diffusion 2.1-base's scheduler, its table in double precision."""
    from diffusers import DDIMScheduler

    made = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        **changes,
    )
    made.alphas_cumprod = made.alphas_cumprod.double()
    made.final_alpha_cumprod = made.final_alpha_cumprod.double()
    return made


def texts(count, seed=7):
    """Random embeddings [count,L,D], one per text."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *TEXT, generator=generator, dtype=torch.float64)


def latents(count, seed=3):
    """Random latents, ready to receive a gradient."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, *LATENT, generator=generator, dtype=torch.float64)
    return drawn.mul(0.8).requires_grad_()


@contextlib.contextmanager
def kept_draws(kinds=("randn", "randn_like", "randint", "rand")):
    """Inside, torch's global draws are noted in their order: yields a list of (kind, tensor)."""
    draws, originals = [], {kind: getattr(torch, kind) for kind in kinds}

    def noting(kind):
        def drawn(*args, **kwargs):
            value = originals[kind](*args, **kwargs)
            draws.append((kind, value.clone()))
            return value

        return drawn

    for kind in kinds:
        setattr(torch, kind, noting(kind))
    try:
        yield draws
    finally:
        for kind, original in originals.items():
            setattr(torch, kind, original)
