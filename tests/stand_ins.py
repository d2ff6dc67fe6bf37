"""Networks, losses and noise that are known, and what is asked of runs and programs."""
import csv
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train
from papers.kit.analytic import Gaussian
from plumbing.checkpoint import read_checkpoint, write_checkpoint


class Constant(torch.nn.Module):
    """A network of one weight w, which predicts w everywhere."""

    def __init__(self, w=5.0):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(w))

    def forward(self, x_t, t):
        return self.w + 0 * x_t


def pull(ddpm, model, x_0, labels):
    """A loss whose gradient is known: (w - 3)^2 for each image."""
    return ((model.w - 3) ** 2).expand(len(x_0)), torch.ones(len(x_0), dtype=torch.int64)


def checkpoint(config):
    return torch.load(Path(config.out, "checkpoint.pt"), map_location="cpu", weights_only=True)


def rows(config):
    with open(Path(config.out, "log.csv"), newline="") as f:
        return list(csv.DictReader(f))


def same(one, two):
    """Are two nested structures of tensors, numbers and strings equal, bit for bit?

    For what was only moved, and for two runs that make the same operations in the same order, on
    tensors of the same shapes, with the same number of threads: what resume on a CPU promises.
    """
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def refused(capsys, argv, *words, code=2, main=train.main):
    """Run main: it must exit with `code` and one line on stderr that has these words."""
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in argv])
    said = capsys.readouterr().err
    assert caught.value.code == code
    assert said.count("\n") == 1 and "Traceback" not in said, said
    assert all(word in said for word in words), said


made = {}


def made_once(program, flags, folders):
    """Train a paper's tiny network by `python -m papers.NAME train`, once for all tests.

    Args:
        program: the module; flags, folders: the fixtures flags and tmp_path_factory.

    Returns:
        The path of a checkpoint without what only --resume needs, so that it is read faster; the
        whole run is the folder "whole" beside its own.  Neither is to be written.
    """
    if program not in made:
        out = folders.mktemp("made") / "run"
        with torch.random.fork_rng():
            program.main(["train", *flags("--out", str(out), "--lr", "0.05")])
        shutil.copytree(out, out.with_name("whole"))
        made[program] = out / "checkpoint.pt"
        content = read_checkpoint(made[program])
        write_checkpoint({name: content[name] for name in ("config", "step", "ema")}, made[program])
    return made[program]


class Spy:
    """A model that keeps what it is asked, of all images at one time."""

    def __init__(self):
        self.asked = []

    def __call__(self, x_t, t):
        assert t.shape == (len(x_t),) and t.dtype == torch.int64 and len(t.unique()) == 1
        self.asked.append((t[0].item(), x_t))
        return 0.5 * x_t

    @property
    def times(self):
        return [t for t, _ in self.asked]


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def awake(net):
    """Give a network weights that are nowhere 0, as some are before training."""
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return net


def correlated(D, ddpm):
    """Correlated pixels in float64, and the perfect network for them."""
    L = torch.randn(D, D, generator=noise(7), dtype=torch.float64)
    C = L @ L.T / D / 4 + torch.eye(D) / 20
    return Gaussian(ddpm, torch.linspace(-0.3, 0.4, D).double(), C)


class Tape(TorchDispatchMode):
    """Stands for a CUDA graph: the operations of a block, not done now, to be done at each replay.

    To know what comes out they have to be done once; what that changes is put back at the end.
    """

    def __init__(self):
        super().__init__()
        self.operations, self.before = [], {}

    def __enter__(self):
        self.noise = torch.get_rng_state()
        return super().__enter__()

    def __torch_dispatch__(self, operation, types, args=(), options=None):
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        for x, argument in zip(args, operation._schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for y in x if isinstance(x, list) else [x]:
                    self.before.setdefault(id(y), (y, y.detach().clone()))
        out = operation(*args, **options or {})
        self.operations.append((operation, args, options or {}, out))
        return out

    def __exit__(self, *error):
        super().__exit__(*error)
        with torch.no_grad():
            for x, before in self.before.values():
                x.copy_(before)
        torch.set_rng_state(self.noise)

    @torch.no_grad()
    def replay(self):
        for operation, args, options, out in self.operations:
            new = operation(*args, **options)
            for mine, x in zip(*(y if isinstance(y, (tuple, list)) else [y] for y in (out, new)),
                               strict=True):
                if isinstance(mine, torch.Tensor) and mine.data_ptr() != x.data_ptr():
                    mine.copy_(x)


def numbers(text):
    """Every equation that a text names: "Eq. 6, 7" and "Eq. 17 to 22" as well as "Eq. 4"."""
    found = set()
    for group in re.findall(r"Eq\.\s+(\d+(?:(?:,\s+|\s+and\s+|-|\s+to\s+)\d+)*)", text):
        for first, last in re.findall(r"(\d+)(?:(?:-|\s+to\s+)(\d+))?", group):
            found |= set(range(int(first), int(last or first) + 1))
    return found
