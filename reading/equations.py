r"""The equations, algorithms and figures of the papers, the code that has each, and its tests.

EQUATIONS[paper].equations[number] is an Equation.  The LaTeX is what GitHub's MathJax and
matplotlib's mathtext both read: \mid for the bar of a condition, and no \text, \underbrace or
aligned.  The papers' vectors are bold; here they are not, and := is =.
"""
from typing import NamedTuple


class Equation(NamedTuple):
    """A numbered equation, algorithm or figure of a paper.

    latex: one line, or a list of lines; a line with dollar signs is a sentence with math between
        them, as those of an algorithm are; of a figure there is nothing ("").
    says: what it is for, in words of this project, with math between dollar signs where need be.
    code: the functions or classes that have it, separated by spaces.
    tests: the tests that prove it, separated by spaces, each without its "test_": of the file that
        mirrors the first of `code` (ddpm.DDPM: tests/test_ddpm.py); of another file
        FILE.NAME, where papers.ddim is tests/papers/test_ddim.py.
    """

    latex: str | list
    says: str
    code: str
    tests: str


class Paper(NamedTuple):
    """title, link (of arXiv, or where it can be read), and {number: Equation} in its order."""

    title: str
    link: str
    equations: dict


E = Equation
BOUND = "papers.variational_bound."
EQUATIONS = {"Ho et al. 2020": Paper(
    "Denoising Diffusion Probabilistic Models", "https://arxiv.org/abs/2006.11239", {
        "Eq. 1": E(
            [r"p_\theta(x_{0:T}) = p(x_T) \prod_{t=1}^T p_\theta(x_{t-1} \mid x_t)",
             r"p_\theta(x_{t-1} \mid x_t)"
             r" = \mathcal{N}(x_{t-1}; \mu_\theta(x_t, t), \Sigma_\theta(x_t, t))"],
            "The reverse chain: from pure noise, one learned Gaussian step after the other.",
            "ddpm.DDPM.sample",
            "on_gaussian_data_samples_have_the_mean_and_std_of_the_exact_recursion "
            "sample_starts_from_noise_of_the_generator_and_walks_the_reverse_process"),
        "Eq. 2": E(
            [r"q(x_{1:T} \mid x_0) = \prod_{t=1}^T q(x_t \mid x_{t-1})",
             r"q(x_t \mid x_{t-1}) = \mathcal{N}(x_t; \sqrt{1 - \beta_t} x_{t-1}, \beta_t I)"],
            "One step of the forward chain shrinks the image a little and adds a little noise.",
            "ddpm.DDPM.q_sample", "iterating_eq_2_gives_eq_4"),
        "Eq. 3": E(
            r"\mathbb{E}[-\log p_\theta(x_0)] \leq \mathbb{E}_q\left[-\log p(x_T) - \sum_{t \geq 1}"
            r" \log \frac{p_\theta(x_{t-1} \mid x_t)}{q(x_t \mid x_{t-1})}\right] = L",
            "The bound on the negative log-likelihood: what L_simple is a reweighting of.",
            BOUND + "bound", "eq_3_is_eq_5"),
        "Eq. 4": E(
            r"q(x_t \mid x_0) = \mathcal{N}(x_t; \sqrt{\bar\alpha_t} x_0, (1 - \bar\alpha_t) I)",
            "t steps of Eq. 2 are one Gaussian, so that any $x_t$ is drawn in one jump.",
            "ddpm.DDPM.q_sample", "iterating_eq_2_gives_eq_4"),
        "Eq. 5": E(
            [r"L = \mathbb{E}_q\left[L_T + \sum_{t > 1} L_{t-1} + L_0\right]",
             r"L_T = D_{\mathrm{KL}}(q(x_T \mid x_0) \,\|\, p(x_T))", r"L_{t-1} = D_{\mathrm{KL}}("
             r"q(x_{t-1} \mid x_t, x_0) \,\|\, p_\theta(x_{t-1} \mid x_t))",
             r"L_0 = -\log p_\theta(x_0 \mid x_1)"],
            "The same bound in terms that are each known in closed form: comparisons of Gaussians.",
            BOUND + "bound", "every_term_equals_an_independent_evaluation_in_float64"),
        "Eq. 6": E(
            r"q(x_{t-1} \mid x_t, x_0)"
            r" = \mathcal{N}(x_{t-1}; \tilde\mu_t(x_t, x_0), \tilde\beta_t I)",
            "One step back is a Gaussian too, for whoever knows $x_0$.",
            "ddpm.DDPM.posterior_mean", "the_posterior_is_the_product_of_two_gaussians"),
        "Eq. 7": E(
            [r"\tilde\mu_t(x_t, x_0) = \frac{\sqrt{\bar\alpha_{t-1}} \beta_t}{1 - \bar\alpha_t} x_0"
             r" + \frac{\sqrt{\alpha_t} (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} x_t",
             r"\tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t"],
            "Its mean, between $x_0$ and $x_t$, and its variance, which is 0 at t = 1.",
            "ddpm.DDPM.posterior_mean ddpm.DDPM.__init__",
            "the_posterior_is_the_product_of_two_gaussians "
            "sigma_is_the_standard_deviation_of_the_named_variance"),
        "Eq. 8": E(
            r"L_{t-1} = \mathbb{E}_q\left[\frac{1}{2 \sigma_t^2} \| \tilde\mu_t(x_t, x_0)"
            r" - \mu_\theta(x_t, t) \|^2\right] + C",
            "A KL divergence of Gaussians with fixed variances is a distance of their means.",
            "papers.kit.analytic.kl",
            "papers.variational_bound.a_kl_divergence_is_that_of_torch_distributions"),
        "Eq. 9": E(
            r"L_{t-1} - C = \mathbb{E}_{x_0, \epsilon}\left[\frac{1}{2 \sigma_t^2} \left\| \tilde"
            r"\mu_t\left(x_t(x_0, \epsilon), \frac{1}{\sqrt{\bar\alpha_t}} (x_t(x_0, \epsilon)"
            r" - \sqrt{1 - \bar\alpha_t} \epsilon)\right) - \mu_\theta(x_t(x_0, \epsilon), t)"
            r" \right\|^2\right]", "Eq. 8, with $x_0$ written as what is left of $x_t$ without its"
            " noise.", "ddpm.DDPM.posterior_sample", "eq_7_of_eq_15_is_eq_11"),
        "Eq. 10": E(
            r"= \mathbb{E}_{x_0, \epsilon}\left[\frac{1}{2 \sigma_t^2} \left\| \frac{1}"
            r"{\sqrt{\alpha_t}} \left(x_t(x_0, \epsilon) - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}}"
            r" \epsilon\right) - \mu_\theta(x_t(x_0, \epsilon), t) \right\|^2\right]",
            "So the mean to aim at is $x_t$ minus a little of the noise in it.",
            "ddpm.DDPM.posterior_sample", "eq_7_of_eq_15_is_eq_11"),
        "Eq. 11": E(
            [r"\mu_\theta(x_t, t) = \tilde\mu_t\left(x_t, \frac{1}{\sqrt{\bar\alpha_t}} (x_t"
             r" - \sqrt{1 - \bar\alpha_t} \epsilon_\theta(x_t))\right)",
             r"= \frac{1}{\sqrt{\alpha_t}} \left(x_t - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}}"
             r" \epsilon_\theta(x_t, t)\right)"],
            "The network is asked for that noise. Here the first form is computed, so that"
            r" $\hat x_0$ can be clipped.", "ddpm.DDPM.posterior_sample",
            "eq_7_of_eq_15_is_eq_11 clipping_changes_nothing_where_nothing_is_clipped"),
        "Eq. 12": E(
            r"\mathbb{E}_{x_0, \epsilon}\left[\frac{\beta_t^2}{2 \sigma_t^2 \alpha_t"
            r" (1 - \bar\alpha_t)} \| \epsilon - \epsilon_\theta(\sqrt{\bar\alpha_t} x_0"
            r" + \sqrt{1 - \bar\alpha_t} \epsilon, t) \|^2\right]",
            "With Eq. 11 the term is an error in the noise, with a weight that depends on t.",
            "papers.kit.analytic.kl", "papers.variational_bound."
            "eq_8_without_its_constant_is_the_weighted_loss_of_eq_12"),
        "Eq. 13": E(
            [r"p_\theta(x_0 \mid x_1) = \prod_{i=1}^D \int_{\delta_-(x_0^i)}^{\delta_+(x_0^i)}"
             r" \mathcal{N}(x; \mu_\theta^i(x_1, 1), \sigma_1^2) \, dx",
             r"$\delta_+(x) = \infty$ if $x = 1$, else $x + \frac{1}{255}$",
             r"$\delta_-(x) = -\infty$ if $x = -1$, else $x - \frac{1}{255}$"],
            "The last step as a probability of each of 256 pixel values.",
            BOUND + "decoder_nll",
            "the_256_bins_sum_to_1 the_decoder_is_the_gaussian_integrated_over_the_bin"),
        "Eq. 14": E(
            r"L_{\mathrm{simple}}(\theta) = \mathbb{E}_{t, x_0, \epsilon}\left[ \| \epsilon"
            r" - \epsilon_\theta(\sqrt{\bar\alpha_t} x_0 + \sqrt{1 - \bar\alpha_t} \epsilon, t)"
            r" \|^2\right]", "Eq. 12 without its weight: what is trained.",
            "ddpm.DDPM.loss", "the_loss_is_the_mean_squared_error_of_the_noise_in_x_t"),
        "Eq. 15": E(
            r"x_0 \approx \hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t} \epsilon_\theta(x_t))"
            r" / \sqrt{\bar\alpha_t}",
            "What the network believes $x_0$ to be, at any time: Eq. 4 solved for it.",
            "ddpm.DDPM.predict_x_0", "eq_15_undoes_eq_4"),
        "Eq. 16": E(
            r"L = D_{\mathrm{KL}}(q(x_T) \,\|\, p(x_T)) + \mathbb{E}_q\left[\sum_{t \geq 1}"
            r" D_{\mathrm{KL}}(q(x_{t-1} \mid x_t) \,\|\, p_\theta(x_{t-1} \mid x_t))\right]"
            r" + H(x_0)", "The bound without conditioning on $x_0$. It cannot be computed for"
            " images; its test is on Gaussian data.", BOUND + "bound",
            "eq_16_is_eq_5_in_the_mean_over_the_data"),
        "Eq. 17 to 22": E(
            [r"L = \mathbb{E}_q\left[-\log \frac{p_\theta(x_{0:T})}{q(x_{1:T} \mid x_0)}\right]",
             r"= \mathbb{E}_q\left[-\log p(x_T) - \sum_{t \geq 1} \log \frac{p_\theta(x_{t-1}"
             r" \mid x_t)}{q(x_t \mid x_{t-1})}\right]", r"= \mathbb{E}_q\left[-\log p(x_T)"
             r" - \sum_{t > 1} \log \frac{p_\theta(x_{t-1} \mid x_t)}{q(x_t \mid x_{t-1})}"
             r" - \log \frac{p_\theta(x_0 \mid x_1)}{q(x_1 \mid x_0)}\right]",
             r"= \mathbb{E}_q\left[-\log p(x_T) - \sum_{t > 1} \log \frac{p_\theta(x_{t-1} \mid"
             r" x_t)}{q(x_{t-1} \mid x_t, x_0)} \cdot \frac{q(x_{t-1} \mid x_0)}{q(x_t \mid x_0)}"
             r" - \log \frac{p_\theta(x_0 \mid x_1)}{q(x_1 \mid x_0)}\right]",
             r"= \mathbb{E}_q\left[-\log \frac{p(x_T)}{q(x_T \mid x_0)} - \sum_{t > 1} \log \frac"
             r"{p_\theta(x_{t-1} \mid x_t)}{q(x_{t-1} \mid x_t, x_0)} - \log p_\theta(x_0 \mid x_1)"
             r"\right]", r"= \mathbb{E}_q\left[D_{\mathrm{KL}}(q(x_T \mid x_0) \,\|\, p(x_T))"
             r" + \sum_{t > 1} D_{\mathrm{KL}}(q(x_{t-1} \mid x_t, x_0) \,\|\, p_\theta(x_{t-1}"
             r" \mid x_t)) - \log p_\theta(x_0 \mid x_1)\right]"],
            "From Eq. 3 to Eq. 5: Bayes' rule turns each step around, and the sum telescopes.",
            BOUND + "bound", "eq_3_is_eq_5"),
        "Eq. 23 to 26": E(
            [r"L = \mathbb{E}_q\left[-\log p(x_T) - \sum_{t \geq 1} \log \frac{p_\theta(x_{t-1}"
             r" \mid x_t)}{q(x_t \mid x_{t-1})}\right]", r"= \mathbb{E}_q\left[-\log p(x_T)"
             r" - \sum_{t \geq 1} \log \frac{p_\theta(x_{t-1} \mid x_t)}{q(x_{t-1} \mid x_t)}"
             r" \cdot \frac{q(x_{t-1})}{q(x_t)}\right]",
             r"= \mathbb{E}_q\left[-\log \frac{p(x_T)}{q(x_T)} - \sum_{t \geq 1} \log"
             r" \frac{p_\theta(x_{t-1} \mid x_t)}{q(x_{t-1} \mid x_t)} - \log q(x_0)\right]",
             r"= D_{\mathrm{KL}}(q(x_T) \,\|\, p(x_T)) + \mathbb{E}_q\left[\sum_{t \geq 1}"
             r" D_{\mathrm{KL}}(q(x_{t-1} \mid x_t) \,\|\, p_\theta(x_{t-1} \mid x_t))\right]"
             r" + H(x_0)"], "From Eq. 3 to Eq. 16, in the same way without $x_0$.",
            BOUND + "bound", "eq_16_is_eq_5_in_the_mean_over_the_data"),
        "Algorithm 1": E(
            ["repeat", r"   $x_0 \sim q(x_0)$", r"   $t \sim \mathrm{Uniform}(\{1, \ldots, T\})$",
             r"   $\epsilon \sim \mathcal{N}(0, I)$", r"   take a gradient descent step on $\nabla_\theta"
             r" \| \epsilon - \epsilon_\theta(\sqrt{\bar\alpha_t} x_0 + \sqrt{1 - \bar\alpha_t}"
             r" \epsilon, t) \|^2$", "until converged"],
            "Training: take an image to a random time, and ask the network which noise did it.",
            "train.train ddpm.DDPM.loss ddpm.DDPM.draw_t",
            "ddpm.training_times_cover_exactly_1_to_T_and_differ_within_a_batch "
            "a_step_is_warmed_up_clipped_adam_and_its_ema"),
        "Algorithm 2": E(
            [r"$x_T \sim \mathcal{N}(0, I)$", r"for $t = T, \ldots, 1$ do",
             r"   $z \sim \mathcal{N}(0, I)$ if $t > 1$, else $z = 0$",
             r"   $x_{t-1} = \frac{1}{\sqrt{\alpha_t}} \left(x_t - \frac{1 - \alpha_t}{\sqrt{1 -"
             r" \bar\alpha_t}} \epsilon_\theta(x_t, t)\right) + \sigma_t z$", "end for",
             "return $x_0$"], "Sampling: T times the network, and noise after each but the last.",
            "ddpm.DDPM.reverse_process ddpm.DDPM.p_sample ddpm.DDPM.sample",
            "if_all_data_is_one_point_samples_are_that_point "
            "on_gaussian_data_samples_have_the_mean_and_std_of_the_exact_recursion"),
        "Algorithm 3": E(
            [r"send $x_T \sim q(x_T \mid x_0)$ using $p(x_T)$", r"for $t = T - 1, \ldots, 2, 1$ do",
             r"   send $x_t \sim q(x_t \mid x_{t+1}, x_0)$ using $p_\theta(x_t \mid x_{t+1})$",
             "end for", r"send $x_0$ using $p_\theta(x_0 \mid x_1)$"],
            "A code for images whose length is the bound: the noisy version first, then better"
            " ones.", BOUND + "send", "the_receiver_gets_x_T_to_x_1_with_the_marginals_of_eq_4"),
        "Algorithm 4": E(
            ["receive $x_T$ using $p(x_T)$", r"for $t = T - 1, \ldots, 1, 0$ do",
             r"   receive $x_t$ using $p_\theta(x_t \mid x_{t+1})$", "end for", "return $x_0$"],
            r"What the other end knows after each message; it can show $\hat x_0$ at any time.",
            BOUND + "send", "the_receiver_shows_eq_15_clipped_unless_told"),
        "Sec. 3.2": E(
            r"\Sigma_\theta(x_t, t) = \sigma_t^2 I, \quad \sigma_t^2 = \beta_t \quad \mathrm{or}"
            r" \quad \sigma_t^2 = \tilde\beta_t",
            r"The first is best if $x_0 \sim \mathcal{N}(0, I)$, the second if all data is one point."
            r" At t = 1 the second is 0, and the first is not used, since there z = 0.",
            "ddpm.DDPM", "sigma_is_the_standard_deviation_of_the_named_variance"),
        "Sec. 3.3": E(
            r"\{0, 1, \ldots, 255\} \rightarrow [-1, 1]",
            "Pixels are scaled linearly, to the size of the noise.", "data.to_model",
            "every_pixel_value_survives_the_round_trip"),
        "Sec. 4": E(
            r"T = 1000, \quad \beta_1 = 10^{-4}, \ldots, \beta_T = 0.02",
            "Evenly spaced: small steps, so that each can be undone by a Gaussian.",
            "schedules.linear_beta_schedule", "the_defaults_are_the_papers"),
        "Fig. 5": E(
            r"\sqrt{\| x_0 - \hat x_0 \|^2 / D}",
            "The distortion at t, against the bits received until then (Table 4).",
            BOUND + "rate_distortion", "the_rate_at_t_is_what_was_sent_so_far_and_the_distortion_is"
            "_an_rmse_on_0_to_255"),
        "Fig. 6": E("", r"Progressive generation: $\hat x_0$ as t falls.",
                    "papers.experiments.progressive",
                    "progressive_generation_shows_x_0_hat_at_the_times_asked_for"),
        "Fig. 7": E("", "Samples that share $x_t$: what of an image is decided by time t.",
                    "papers.experiments.share", "samples_share_x_t_and_nothing_after_it"),
        "Fig. 8": E(
            r"\bar x_t = (1 - \lambda) x_t + \lambda x_t'",
            "Two images, mixed where they are noise and decoded (and Fig. 9).",
            "papers.experiments.interpolate",
            "images_are_mixed_and_decoded_at_the_time_they_were_noised_to"),
        "Appendix B": E("", "The network: a U-Net with attention at 16 x 16, told the time in every"
                        " residual block.", "unet.UNet", "the_default_is_the_papers_cifar10_"
                        "network"),
    }),
}
