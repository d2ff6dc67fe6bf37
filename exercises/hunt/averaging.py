"""One step of training, with a clipped gradient and an average of the weights to sample from."""
import copy

import torch
from torch import nn

DEFECT = ""                                          # its name, from the list in README


def start_average(model):
    """Return the average of the weights as it is before the first step, ready to sample from."""
    ema = copy.deepcopy(model).requires_grad_(False)
    return ema.eval()


def train_step(model, ema, optimizer, loss, decay=0.9, max_norm=1.0):
    """Make one step with loss(model), whose gradient gets a norm of at most max_norm.

    Then ema <- decay ema + (1 - decay) model.
    """
    value = loss(model)
    optimizer.zero_grad()
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    with torch.no_grad():
        for average, weight in zip(ema.parameters(), model.parameters(), strict=True):
            average.mul_(decay).add_(weight, alpha=1 - decay)
    return value.item()
