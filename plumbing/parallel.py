"""Several processes, one for each GPU, as torchrun starts them; alone, a program notices nothing.

    torchrun --nproc_per_node=2 train.py cifar10
    torchrun --nproc_per_node=2 -- sample.py --n 50000 --folder samples

Without the "--" torchrun takes --n for an option of its own.
"""
import contextlib
import gc
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn


rank, world = 0, 1                                   # which of the processes this is; how many


def join(device="auto"):
    """Join the processes that torchrun started, if it started this one.  Only the first prints.

    Raises:
        ValueError: there are several, and `device` is the name of one that they would share.
    """
    global rank, world
    if "LOCAL_RANK" in os.environ and device not in ("auto", "cuda", "cpu"):
        raise ValueError(f"--device must be auto, cuda or cpu under torchrun, not {device}")
    if "LOCAL_RANK" in os.environ and not dist.is_initialized():
        if own_gpu():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))         # what "cuda" means here
        # Imported later, it would keep the group, and gloo's threads, past `leave`: as defaults.
        from torch.distributed.nn import functional  # noqa: F401
        dist.init_process_group("gloo", timeout=timedelta(days=1))       # the first one samples
        if dist.get_rank() > 0:
            sys.stdout = open(os.devnull, "w")
    if dist.is_initialized():                        # by us, or by who calls us
        rank, world = dist.get_rank(), dist.get_world_size()


def own_gpu():
    """Is there a GPU for each process of this machine?"""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= torch.cuda.device_count()


def leave():
    """Part from the other processes at the end of a run.

    Gloo's threads end with the last reference to the group.  One that lives on may abort the
    process when the interpreter ends.
    """
    global rank, world
    if world > 1 or dist.is_initialized():
        gc.collect()                                 # what is left of DistributedDataParallel
        # A thread of gloo may still hold tensors of the last sum, and needs Python's lock to let go
        # of them, which the end of the group keeps while it waits for that thread.
        time.sleep(0.5)
        dist.destroy_process_group()
        rank, world = 0, 1


def replicate(model):
    """Return a model whose gradients are the averages over all processes."""
    total(torch.zeros(1))                            # else torch says it if one has ended
    nccl = next(model.parameters()).is_cuda and own_gpu()
    group = dist.new_group(backend="nccl") if nccl else None
    return nn.parallel.DistributedDataParallel(model, process_group=group)


@contextlib.contextmanager
def meeting():
    """Say in one line that another process has ended; its own line says why."""
    try:
        yield
    except RuntimeError as error:
        raise OSError("another process has ended") from error


def gather(value):
    """Return the values of all processes, in a list."""
    values = [value] * world
    if world > 1:
        with meeting():
            dist.all_gather_object(values, value)
    return values


def same(value):
    """Do all processes have the same value?"""
    return len(set(gather(value))) == 1


def total(tensor):
    """Return the sum of the tensors of all processes, on the CPU."""
    tensor = tensor.detach().cpu().clone()
    if world > 1:
        with meeting():
            dist.all_reduce(tensor)
    return tensor


@contextlib.contextmanager
def one_first():
    """Let the first process through the block alone, and the others when it is done.

    Of these the first of each machine goes before the rest: it may have a disk of its own.
    """
    turn = (rank > 0) + (int(os.environ.get("LOCAL_RANK", 0)) > 0)       # 0, 1 or 2
    for _ in range(turn):
        total(torch.zeros(1))
    yield
    for _ in range(turn, 2):
        total(torch.zeros(1))
