"""14: interpolation."""
import torch

from .kit import demand, expect, same

T = 6


class Process:
    """A chain whose steps leave marks: noising to time t and denoising from time s show."""

    def __init__(self):
        self.T, self.noised, self.denoised, self.eps, self.options = T, [], [], [], []

    def q_sample(self, x_0, t, eps):
        self.noised.append(int(torch.as_tensor(t).flatten()[0]))
        self.eps.append(eps)
        return x_0 + 10 * torch.as_tensor(t).reshape(-1, *[1] * (x_0.dim() - 1))[:len(x_0)]

    def p_sample(self, model, x_t, t, clip=True, generator=None):
        self.denoised.append(int(t))
        self.options.append((clip, generator))
        return x_t - 10

    def reverse_process(self, *args, **kwargs):
        raise RuntimeError("interpolation starts at time t, not at T: use `decode`")


def mix(student, t, lambdas, size=4, **options):
    process = Process()
    x_0, other = torch.zeros(1, size, size), torch.ones(1, size, size)
    options.setdefault("generator", torch.Generator().manual_seed(student.seed))
    got = student.experiments.interpolate(process, None, x_0, other, t, lambdas, **options)
    return process, got


def check_the_same_t_both_ways(student):
    """Noised to time t, denoised from time t."""
    for t in (4, 1, 6):
        process, got = mix(student, t, [0.0, 1.0])
        demand(process.noised and set(process.noised) == {t}, f"interpolate at t = {t}: the images "
               f"were noised to t = {process.noised}")
        steps = list(range(t, 0, -1))
        one_off = {tuple(range(t - 1, 0, -1)): "one step too late: denoising starts at t - 1",
                   tuple(range(t + 1, 0, -1)): "one step too early: denoising starts at t + 1",
                   tuple(range(t, 1, -1)): "the last step is skipped"}
        why = one_off.get(tuple(process.denoised), "")
        demand(process.denoised in (steps, 2 * steps), f"interpolate at t = {t}: expected "
               f"the steps {steps}, got {process.denoised}. {why}")


def check_the_mixture_is_linear(student):
    """lambda = 0 is the first image, 1 the second."""
    _, got = mix(student, 4, [0.0, 0.25, 0.5, 1.0])
    demand(got is not None, "interpolate: nothing was returned")
    demand(got.shape == (4, 1, 4, 4), "interpolate: expected an image for each lambda, "
           f"(4, 1, 4, 4), got {tuple(got.shape)}")
    expect(got[:, 0, 0, 0], torch.tensor([0.0, 0.25, 0.5, 1.0]), "the share of the second image at "
           "lambda = 0, 0.25, 0.5, 1, sec. 4.4", [
        ("when the two images are exchanged", torch.tensor([1.0, 0.75, 0.5, 0.0])),
        ("when the weights are square roots, as for independent noise",
         torch.tensor([0.0, 0.5, 0.5 ** 0.5, 1.0]))])


def check_t_0_mixes_pixels(student):
    process, got = mix(student, 0, [0.5])
    expect(got, torch.full((1, 1, 4, 4), 0.5), "interpolate at t = 0: pixels are mixed")
    demand(process.denoised == [], f"interpolate at t = 0: steps {process.denoised} were made")


def check_the_two_images_have_noise_of_their_own(student):
    """Both are noised once, for every lambda; each with its own eps."""
    process, _ = mix(student, 3, [0.0, 0.3, 0.6, 1.0])
    eps = torch.cat([each.reshape(-1, 16) for each in process.eps])
    demand(len(eps) == 2, f"interpolate: {len(eps)} images were noised, not 2. Noise both once, "
           "and mix the results for every lambda.")
    demand(not same(eps[0], eps[1]), "interpolate: both images got the same noise")
    eps = torch.cat([each.flatten() for each in mix(student, 3, [0.0], 100)[0].eps])
    expect(eps.std(), 1.0, "the deviation of the noise", [
        ("when eps is uniform in [0, 1]: rand instead of randn", 12 ** -0.5)], rtol=0.05)
    again, _ = mix(student, 3, [0.0])
    demand(same(torch.cat([e.flatten() for e in again.eps]),
                torch.cat([e.flatten() for e in process.eps])),
           "interpolate: the same generator gave other noise. Pass generator to torch.randn.")


def check_clip_and_generator_reach_every_step(student):
    g = torch.Generator().manual_seed(student.seed)
    for clip in (True, False):
        process, _ = mix(student, 3, [0.5], clip=clip, generator=g)
        demand(all(given == (clip, g) for given in process.options), f"interpolate with clip={clip}"
               " and a generator: decoding was not told of them. Pass both on to `decode`.")
