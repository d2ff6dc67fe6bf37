"""12: classifier-free guidance."""
import math

import torch

from .kit import Process, demand, expect

BETA = [0.1, 0.3, 0.2, 0.5]
MEANS = torch.tensor([[-0.8, 0.3], [0.5, 0.9], [0.2, -0.6]], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
NULL = 23                                            # and not 10, so that nobody counts on it


def log_parts(x, a):
    """log p(y) + log q(x_t | y), (B, 3), of a mixture of three classes; alpha_bar_t = a, (B, 1)."""
    v = a * STDS ** 2 + 1 - a
    squares = (x[:, None] - a[:, None] ** 0.5 * MEANS).square().sum(2)
    return WEIGHTS.log() - squares / (2 * v) - (2 * math.pi * v).log()


def eps_of(log_density, x_t, t):
    """-sqrt(1 - alpha_bar_t) times the gradient of log_density(x, alpha_bar_t)."""
    a = Process(BETA).alpha_bar.double()[t][:, None]
    with torch.enable_grad():
        x = x_t.double().detach().requires_grad_()
        score, = torch.autograd.grad(log_density(x, a).sum(), x)
    return (-(1 - a) ** 0.5 * score).to(x_t)


class Perfect:
    """The network that has learned the mixture; it notes what it was asked."""

    null = NULL

    def __init__(self):
        self.asked = []

    def __call__(self, x_t, t, y=None):
        self.asked.append((x_t, t, y))

        known = torch.full((len(x_t),), NULL) if y is None else y

        def log_density(x, a):
            parts = log_parts(x, a)
            of_y = parts.gather(1, known.clamp(max=2)[:, None])[:, 0]
            return torch.where(known == NULL, parts.logsumexp(1), of_y)
        return eps_of(log_density, x_t, t)


def some(student):
    torch.manual_seed(student.seed)
    n = 60
    x_t = 1.5 * torch.randn(n, 2, dtype=torch.float64)
    return x_t, torch.arange(n) % 4 + 1, torch.arange(n) % 3


def ask(student, model, y, w, x_t, t):
    """Build the student's guided model and ask it."""
    each = student.guidance.guided(model, y, w)
    demand(callable(each), "guided must return a function, called as model(x_t, t), and not "
           f"{type(each).__name__}")
    return each(x_t, t)


def check_the_score_is_that_of_p_of_x_times_p_of_y_given_x_to_the_1_plus_w(student):
    """Against autograd of the log density, with the classifier by Bayes' rule."""
    x_t, t, y = some(student)
    model = Perfect()
    c, u = model(x_t, t, y), model(x_t, t)
    for w in (0.5, 3.0, 1.0):
        def log_density(x, a, w=w):
            parts = log_parts(x, a)
            return parts.logsumexp(1) + (1 + w) * parts.log_softmax(1).gather(1, y[:, None])[:, 0]
        expect(ask(student, Perfect(), y, w, x_t, t), eps_of(log_density, x_t, t),
               f"the guided eps for w = {w:g}: -sqrt(1 - alpha_bar_t) times the gradient of log "
               "p(x_t) + (1 + w) log p(y | x_t), Eq. 6", [
                   ("when w stands where 1 + w belongs, as where 1 is no guidance",
                    w * c + (1 - w) * u),
                   ("when w is added and not taken away: the weights must sum to 1",
                    (1 + w) * c + w * u),
                   ("when the two predictions have changed places", (1 + w) * u - w * c),
                   ("when the prediction without a label is not taken away", (1 + w) * c),
                   ("when the prediction without a label has no factor w", (1 + w) * c - u),
                   ("when their difference is added to the prediction without a label, and w is "
                    "not 1 + w", u + w * (c - u)),
                   ("when there is no guidance", c), ("when the label is forgotten", u)])


def check_w_0_is_conditional_and_w_minus_1_unconditional(student):
    x_t, t, y = some(student)
    model = Perfect()
    c, u = model(x_t, t, y), model(x_t, t)
    expect(ask(student, Perfect(), y, 0, x_t, t), c, "w = 0: the conditional prediction alone", [
        ("for w = -1, or when w stands where 1 + w belongs, or the two have changed places", u)])
    expect(ask(student, Perfect(), y, -1, x_t, t), u, "w = -1: the unconditional prediction alone",
           [("when w stands where 1 + w belongs", 2 * u - c)])


def check_the_model_is_asked_with_every_label_and_with_none(student):
    """Once with y, once without; never with class 0 for no label."""
    x_t, t, y = some(student)
    model = Perfect()
    ask(student, model, y, 2.0, x_t, t)
    labels = [label for _, _, label in model.asked]
    with_y = [label for label in labels if label is not None]
    demand(with_y and any(len(label) == len(y) and torch.equal(label, y) for label in with_y)
           or any(len(label) == 2 * len(y) for label in with_y),
           "guided: the model was never asked with the labels y, each image its own")
    demand(not any(torch.equal(label, torch.zeros_like(label)) for label in with_y),
           "guided: the model was asked with class 0 for all images: class 0 is no null label. "
           "Without a label it is model(x_t, t).")
    demand(any(label is None or (label == NULL).any() for label in labels),
           "guided: the model was never asked without a label. It is model(x_t, t).")
    for x, times, _ in model.asked:
        demand(isinstance(times, torch.Tensor) and len(times) == len(x),
               "guided: the model must get t as it came, one time for each image")


def check_it_is_computed_anew_for_every_x_t(student):
    """What guided returns is called T times."""
    x_t, t, y = some(student)
    each = student.guidance.guided(Perfect(), y, 1.0)
    first, second = each(x_t, t), each(x_t + 1, t)
    demand(first is not None, "guided: the function it returns returns nothing")
    expect(second, 2 * Perfect()(x_t + 1, t, y) - Perfect()(x_t + 1, t), "the second call of the "
           "guided model, with another x_t", [("when x_t of the first call is kept", first)])


def check_labels_are_dropped_one_by_one(student):
    torch.manual_seed(student.seed)
    y = torch.arange(10).repeat(20)
    counts = []
    for _ in range(100):
        got = student.guidance.drop_labels(y, NULL, 0.2)
        demand(got is not None, "drop_labels: nothing was returned")
        demand(isinstance(got, torch.Tensor) and got.shape == y.shape, "drop_labels: expected a "
               f"tensor of the shape {tuple(y.shape)}")
        counts.append((got == NULL).sum().item())
    share = sum(counts) / (100 * len(y))
    demand(max(counts) > 0, "drop_labels: no label becomes the null label")
    demand(min(counts) < len(y), "drop_labels: all labels become the null label")
    demand(set(counts) - {0, len(y)}, "drop_labels: all labels of a batch are dropped, or none. "
           "Draw one number for each image.")
    demand(len(set(counts)) > 1, "drop_labels: every batch loses the same number of labels. Each "
           "is dropped with probability p_uncond, whatever happens to the others.")
    expect(share, 0.2, "drop_labels: the share of labels that become the null label, p_uncond", [
        ("when a label is kept with probability p_uncond", 0.8)], rtol=0, atol=0.015)


def check_the_null_label_is_the_one_given_and_the_others_stay(student):
    torch.manual_seed(student.seed)
    y = torch.arange(10).repeat(100)
    before = y.clone()
    got = student.guidance.drop_labels(y, 10, 0.5)
    demand(got is not None, "drop_labels: nothing was returned")
    demand(torch.equal(y, before), "drop_labels: the labels that were given have changed. Return "
           "others, and leave y as it is.")
    changed = got != before
    demand(not (got[changed] == 0).all() or not changed.any(), "drop_labels: what is dropped "
           "becomes 0, which is a class. The null label is a label of its own.")
    demand((got[changed] == 10).all(), "drop_labels: what is dropped must become the null label")
    demand(got.dtype == torch.int64, f"drop_labels: expected int64, got {got.dtype}: labels are "
           "indices")
    for k in range(10):
        demand(changed[before == k].any(), f"drop_labels: class {k} is never dropped")
    demand((student.guidance.drop_labels(y, 10, 1.0) == 10).all(), "drop_labels: with p_uncond = 1 "
           "every label is dropped")
    demand(torch.equal(student.guidance.drop_labels(y, 10, 0.0), before), "drop_labels: with "
           "p_uncond = 0 no label is dropped")
    other = student.guidance.drop_labels(y, 23, 0.5)
    demand((other == 23).any() and not (other == 10).any(), "drop_labels: with null = 23 the null "
           "label is 23")
