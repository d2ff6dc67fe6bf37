"""14: interpolation."""
import torch

from .formula import Formula
from .kit import demand, expect, same, tensor, theirs

SEC_4_4 = "(1 - weight) * x_t + weight * other_t"


class Process:
    """A chain whose steps leave marks: each of them adds or takes 10; it notes what it is told."""

    def __init__(self):
        self.T, self.noised, self.steps, self.told = 6, [], [], []

    def q_sample(self, x_0, t, eps):
        t = torch.as_tensor(t).expand(len(x_0))
        self.noised += zip(x_0.clone(), t.tolist(), eps.expand(x_0.shape), strict=True)
        t = t[:, None, None, None]
        return x_0 + 10 * t + (t > 0) * eps

    def p_sample(self, model, x_t, t, clip=True, generator=None):
        self.steps.append(int(t))
        self.told.append([model, clip, generator])
        return x_t - 10

    def sample(self, *args, **kwargs):
        raise RuntimeError("interpolation starts at time t, not at T: use `decode`")
    reverse_process = sample


@theirs
def interpolate(student, x_0, other, t, lambdas, clip, seed, rest):
    """Return the mixtures, and what the chain was told; seeds of the generator and of all else."""
    torch.manual_seed(rest)
    process, model, g = Process(), torch.nn.Identity(), seed and torch.Generator().manual_seed(seed)
    got = student.experiments.interpolate(process, model, x_0, other, t, lambdas, clip, g)
    return got, process.noised, process.steps, [
        [one is model, two, three is g] for one, two, three in process.told]


def mix(student, t, lambdas, seed=1, rest=0, clip=True, size=4):
    """Ask for mixtures; are there as many, of images noised to time t, decoded from time t?

    Returns:
        The mixtures; the right ones; the noise, (2, 3, H, W); and what p_sample was told.
    """
    x_0, other = torch.linspace(-1, 1, 6 * size * size).reshape(2, 3, size, size)
    got, noised, steps, told = interpolate(student, x_0, other, t, lambdas, clip, seed, rest)
    what = f"interpolate at t = {t}"
    tensor(got, f"{what}, an image for each lambda", (len(lambdas), *x_0.shape))
    times, right = sorted({time for _, time, _ in noised}), list(range(t, 0, -1))
    demand(times == [t] or t == 0 and not times, f"{what}: the images were noised to t = {times}")
    why = {(*right[1:],): ". Denoising starts at t - 1, one step too late",
           (t + 1, *right): ". Denoising starts at t + 1, one step too early",
           (*right[:-1],): ". The last step is skipped"}.get((*steps,), "")
    demand(steps in (right, len(lambdas) * right), f"{what}: expected the steps {right}, got "
           f"{steps}{why}")
    noised = noised if t else [[x_0, 0, 0 * x_0], [other, 0, 0 * x_0]]
    demand(len(noised) == 2, f"{what}: {len(noised)} images were noised, not 2. Noise both once, "
           "and mix the results for every lambda.")
    noised.sort(key=lambda each: not same(each[0], x_0))         # x_0 first, then other
    eps = torch.stack([each[2] for each in noised])
    x_t, other_t = torch.stack([x_0, other]) + eps + 10 * t
    weight = torch.tensor(lambdas, dtype=torch.float64)[:, None, None, None]
    return got + 10 * t, Formula(SEC_4_4, weight=weight, x_t=x_t, other_t=other_t), eps, told


def check_the_mixture_is_linear_and_made_at_time_t(student):
    """lambda = 0 is the first image, 1 the second; at t = 0 pixels are mixed, and no step made."""
    for t, lambdas in (4, [0.0, 0.25, 0.5, 1.0]), (1, [0.3]), (6, [0.8]), (0, [0.5, 0.2]):
        got, right, _, _ = mix(student, t, lambdas)
        w, x_t, other_t = right.variables.values()
        expect(got, right, f"the mixtures at t = {t} for lambda = {lambdas}, sec. 4.4", [
            ("when the weights are square roots, as for independent noise",
             (1 - w) ** 0.5 * x_t + w ** 0.5 * other_t)], dtype=torch.float32)


def check_the_two_images_have_noise_of_their_own(student):
    """Both are noised once, for every lambda; each with its own eps, of 60,000 numbers in all."""
    def noise(*args):
        return mix(student, 4, [0.0, 0.25, 0.5, 1.0], *args)[2]
    eps = noise(1, 0, True, 100)
    demand(not same(eps[0], eps[1]), "interpolate: both images got the same noise")
    demand(not same(eps[:, 0], eps[:, 1]), "interpolate: all channels got the same noise")
    expect(eps.double().std(), 1.0, "the deviation of the noise", [
        ("when eps is uniform in [0, 1]: rand instead of randn", 12 ** -0.5)], rtol=0.05)
    demand(same(noise(1), noise(1, 1)), "interpolate: the same generator gave other noise. Pass "
           "generator to torch.randn.")
    demand(not same(noise(1), noise(2)) and not same(noise(None), noise(None, 1)), "interpolate: "
           "other random numbers gave the same noise")


def check_clip_and_generator_reach_every_step(student):
    for clip in True, False:
        told = mix(student, 4, [0.5], clip=clip)[3]
        demand(all(each == [True, clip, True] for each in told), f"interpolate with clip={clip} and"
               " a generator: decoding was not told of them. Pass both on to `decode`, and model.")
