"""12: classifier-free guidance."""
import math

import torch

from .formula import Formula
from .kit import BAR, Odd, demand, expect, normal, on_meta, tensor, theirs

MEANS = torch.tensor([[-0.8, 0.3], [0.5, 0.9], [0.2, -0.6]], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
NULL = 23                                            # and not 10, so that nobody counts on it
EQ_6 = "(1 + w) * with_y - w * without"


def log_parts(x, a):
    """log p(y) + log q(x_t | y), (B, 3), of a mixture of three classes; alpha_bar_t = a, (B, 1)."""
    v = a * STDS ** 2 + 1 - a
    squares = (x[:, None] - a[:, None] ** 0.5 * MEANS).square().sum(2)
    return WEIGHTS.log() - squares / (2 * v) - (2 * math.pi * v).log()


def eps_of(log_density, x_t, t):
    """-sqrt(1 - alpha_bar_t) times the gradient of log_density(x, alpha_bar_t)."""
    a = BAR[t][:, None]
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
        demand(isinstance(t, torch.Tensor) and t.shape == x_t.shape[:1], "guided: the model must "
               "get t as it came, one time for each image")
        known = torch.full_like(t, NULL) if y is None else y
        demand(isinstance(known, torch.Tensor) and known.shape == t.shape, "guided: the model must "
               "get y as it came, one label for each image, or no labels")
        self.asked.append([x_t.clone(), t, known])

        def log_density(x, a):
            parts = log_parts(x, a)
            of_y = parts.gather(1, known.clamp(0, 2)[:, None])[:, 0]
            return torch.where(known == NULL, parts.logsumexp(1), of_y)
        return eps_of(log_density, x_t, t)


@theirs
def guided(student, x_t, t, y, w):
    """Build the student's guided model; ask it, and again at x_t + 1 and other times."""
    model = Perfect()
    each = student.guidance.guided(model, y, w)
    if not callable(each):
        return Odd(type(each).__name__)
    return each(x_t, t), each(x_t + 1, t.flip(0)), model.asked


def judge(student, w, again=False):
    """Was the network asked with every label and with none, and is the guided eps that of Eq. 6?"""
    x_t, i = 1.5 * normal(student, 60, 2), torch.arange(60)
    t, y = i % 4 + 1, i % 3
    found = guided(student, x_t, t, y, w)
    demand(not isinstance(found, Odd), "guided must return a function, called as model(x_t, t), "
           f"and not {found}")
    first, second, asked = found
    x, times, labels = map(torch.cat, zip([x_t[:0], t[:0], y[:0]], *asked, strict=True))
    hit = ((x_t[:, None] - x).abs().amax(2) < 1e-4) & (times == t[:, None])  # of image, by question

    def asked_with(label):
        return (hit & (labels == label)).any(1).all()
    demand(asked_with(y[:, None]), "guided: the model was never asked with x_t, t and the labels y,"
           " each image its own: is the label forgotten?")
    demand(not asked_with(0), "guided: the model was asked with class 0 for all images: class 0 is "
           "no null label. Without a label it is model(x_t, t).")
    demand(asked_with(NULL), "guided: the model was never asked without a label. It is "
           "model(x_t, t).")

    def log_density(x, a):
        parts = log_parts(x, a)
        return parts.logsumexp(1) + (1 + w) * parts.log_softmax(1).gather(1, y[:, None])[:, 0]
    if again:
        x_t, t = x_t + 1, t.flip(0)
    c, u = Perfect()(x_t, t, y), Perfect()(x_t, t)
    expect(second if again else first, eps_of(log_density, x_t, t), f"the guided eps for w = {w:g}"
           + ", the second call, at another x_t" * again + ", Eq. 6: -sqrt(1 - alpha_bar_t) times "
           "the gradient of log p(x_t) + (1 + w) log p(y | x_t)", [
        *[("when what the first call saw is kept", first)] * again,
        ("when w stands where 1 + w belongs, as where 1 is no guidance", w * c + (1 - w) * u),
        ("when there is no guidance", c), ("when the label is forgotten", u),
        ("when the weights have changed places", w * c - (1 + w) * u),
        *Formula(EQ_6, w=w, with_y=c, without=u).slips()], dtype=torch.float32)


def check_the_score_is_that_of_p_of_x_times_p_of_y_given_x_to_the_1_plus_w(student):
    """Against autograd of the log density, with the classifier by Bayes' rule."""
    for w in 2.0, 0.5, 1.0:
        judge(student, w)


def check_w_0_is_conditional_and_w_minus_1_unconditional(student):
    for w in 2.0, 0, -1:                             # 2 first: it tells mistakes apart
        judge(student, w)


def check_it_is_computed_anew_for_every_x_t(student):
    """What guided returns is called T times."""
    judge(student, 2.0)
    judge(student, 2.0, again=True)


@theirs
def drop_labels(student, y, null, p_uncond, times=1, device="cpu"):
    return [student.guidance.drop_labels(y.to(device), null, p_uncond) for _ in range(times)]


def drop(student, y, null, p, *args):
    """Say which labels were dropped, time after time, if it was done rightly and as often as due.

    The share of n labels is known to sqrt(p (1 - p) / n); five times that are allowed.
    """
    every = drop_labels(student, y, null, p, *args)
    for got in every:
        tensor(got, "drop_labels", y.shape)
        changed = got[got != y]
        demand(not len(changed) or changed.any(), "drop_labels: what is dropped becomes 0, which is"
               " a class. The null label is a label of its own.")
        demand((changed == null).all(), f"drop_labels: with null = {null} what is dropped must "
               f"become {null}, the null label, and what is not must stay")
        tensor(got, "drop_labels, whose labels are indices", dtype=torch.int64)
    gone = torch.stack(every) == null
    if p not in (0, 1):
        demand(gone.any(), "drop_labels: no label becomes the null label")
        demand(not gone.all(), "drop_labels: all labels become the null label")
        demand((gone.any(1) & ~gone.all(1)).any(), "drop_labels: all labels of a batch are dropped,"
               " or none. Draw one number for each image.")
    expect(gone.double().mean(), float(p), "drop_labels: the share of labels that become the null "
           "label, p_uncond", [("when a label is kept with probability p_uncond", 1 - p)],
           rtol=0, atol=1e-6 + 5 * (p * (1 - p) / gone.numel()) ** 0.5)
    return gone


def check_labels_are_dropped_one_by_one(student):
    """Each with probability p_uncond."""
    gone = drop(student, torch.arange(10).repeat(40), NULL, 0.2, 100)        # (100, 400)
    demand(len(gone.sum(1).unique()) > 1, "drop_labels: every batch loses the same number of "
           "labels. Each is dropped with probability p_uncond, whatever happens to the others.")
    demand(gone.any(0).all(), "drop_labels: some images of a batch never lose their label")


def check_the_null_label_is_the_one_given_and_the_others_stay(student):
    """Where p_uncond is 1 none stay, where it is 0 all; and it works where the labels are."""
    y = torch.arange(10).repeat(40)
    for null, p in (NULL, 0.5), (10, 0.5), (10, 1.0), (10, 0.0):
        gone = drop(student, y, null, p, 10)
        for k in range(10):
            demand(gone[:, y == k].any() or not p, f"drop_labels: class {k} is never dropped")
    on_meta(lambda: drop_labels(student, y, 10, 0.5, 1, "meta")[0], "drop_labels",
            "Draw on the device of y: torch.rand(..., device=y.device).")
