r"""The equations, algorithms and figures of the papers, the code that has each, and its tests.

EQUATIONS[paper].equations[number] is an Equation.  The LaTeX is what GitHub's MathJax and
matplotlib's mathtext both read: \mid for the bar of a condition, and no \text, \underbrace or
aligned.  The papers' vectors are bold; here they are not, := is =, and trained theta has no star.
"""
from typing import NamedTuple


class Equation(NamedTuple):
    """A numbered equation, algorithm or figure of a paper.

    latex: one line, or a list of lines; a line with dollar signs is a sentence with math between
        them, as those of an algorithm are; of a figure there is nothing ("").
    says: what it is for, in words of this project, with math between dollar signs where need be.
    code: the functions or classes that have it, separated by spaces.
    tests: the tests that prove it, separated by spaces, each without its "test_"; all of `code` is
        called by one of them, itself or through others.  They are of the file that mirrors the
        first of `code` (ddpm.DDPM: tests/test_ddpm.py); of another file FILE.NAME, where
        papers.ddim is tests/papers/test_ddim.py.
    """

    latex: str | list
    says: str
    code: str
    tests: str


class Paper(NamedTuple):
    """title, link (of arXiv, or where it can be read), and {number: Equation} in its order.

    text: what of it was compared with what.
    """

    title: str
    link: str
    equations: dict
    text: str = "Compared with the paper's text: formulas and numbers."


E = Equation
EQUATIONS = {}
EQUATIONS["Ho et al. 2020"] = Paper(
    "Denoising Diffusion Probabilistic Models", "https://arxiv.org/abs/2006.11239", {
    "Eq. 1": E([r"p_\theta(x_{0:T}) = p(x_T) \prod_{t=1}^T p_\theta(x_{t-1} \mid x_t)",
        r"p_\theta(x_{t-1} \mid x_t) = \mathcal{N}(x_{t-1}; \mu_\theta(x_t, t), "
        r"\Sigma_\theta(x_t, t))"],
        "The reverse chain: from pure noise, one learned Gaussian step after the other.",
        "ddpm.DDPM.sample",
        "on_gaussian_data_samples_have_the_mean_and_std_of_the_exact_recursion "
        "sample_starts_from_noise_of_the_generator_and_walks_the_reverse_process"),
    "Eq. 2": E([r"q(x_{1:T} \mid x_0) = \prod_{t=1}^T q(x_t \mid x_{t-1})",
        r"q(x_t \mid x_{t-1}) = \mathcal{N}(x_t; \sqrt{1 - \beta_t} x_{t-1}, \beta_t I)"],
        "One step of the forward chain shrinks the image a little and adds a little noise.",
        "ddpm.DDPM.q_sample", "iterating_eq_2_gives_eq_4"),
    "Eq. 3": E(
        r"\mathbb{E}[-\log p_\theta(x_0)] \leq \mathbb{E}_q\left[-\log p(x_T) - \sum_{t \geq 1} "
        r"\log \frac{p_\theta(x_{t-1} \mid x_t)}{q(x_t \mid x_{t-1})}\right] = L",
        "The bound on the negative log-likelihood: what L_simple is a reweighting of.",
        "papers.variational_bound.bound", "eq_3_is_eq_5"),
    "Eq. 4": E(r"q(x_t \mid x_0) = \mathcal{N}(x_t; \sqrt{\bar\alpha_t} x_0, (1 - \bar\alpha_t) I)",
        "t steps of Eq. 2 are one Gaussian, so that any $x_t$ is drawn in one jump.",
        "ddpm.DDPM.q_sample", "iterating_eq_2_gives_eq_4"),
    "Eq. 5": E([r"L = \mathbb{E}_q\left[L_T + \sum_{t > 1} L_{t-1} + L_0\right]",
        r"L_T = D_{\mathrm{KL}}(q(x_T \mid x_0) \,\|\, p(x_T))",
        r"L_{t-1} = D_{\mathrm{KL}}(q(x_{t-1} \mid x_t, x_0) \,\|\, p_\theta(x_{t-1} \mid x_t))",
        r"L_0 = -\log p_\theta(x_0 \mid x_1)"],
        "The same bound in terms that are each known in closed form: comparisons of Gaussians.",
        "papers.variational_bound.bound", "every_term_equals_an_independent_evaluation_in_float64"),
    "Eq. 6": E(
        r"q(x_{t-1} \mid x_t, x_0) = \mathcal{N}(x_{t-1}; \tilde\mu_t(x_t, x_0), \tilde\beta_t I)",
        "One step back is a Gaussian too, for whoever knows $x_0$.", "ddpm.DDPM.posterior_mean",
        "the_posterior_is_the_product_of_two_gaussians"),
    "Eq. 7": E(
        [r"\tilde\mu_t(x_t, x_0) = \frac{\sqrt{\bar\alpha_{t-1}} \beta_t}{1 - \bar\alpha_t} x_0 + "
        r"\frac{\sqrt{\alpha_t} (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} x_t",
        r"\tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t"],
        "The mean of Eq. 6, between $x_0$ and $x_t$, and its variance, which is 0 at t = 1.",
        "ddpm.DDPM.posterior_mean ddpm.DDPM.__init__",
        "the_posterior_is_the_product_of_two_gaussians "
        "sigma_is_the_standard_deviation_of_the_named_variance"),
    "Eq. 8": E(
        r"L_{t-1} = \mathbb{E}_q\left[\frac{1}{2 \sigma_t^2} \| \tilde\mu_t(x_t, x_0) - "
        r"\mu_\theta(x_t, t) \|^2\right] + C",
        "A KL divergence of Gaussians with fixed variances is a distance of their means.",
        "papers.kit.analytic.kl",
        "papers.variational_bound.a_kl_divergence_is_that_of_torch_distributions"),
    "Eq. 9": E(
        [r"L_{t-1} - C = \mathbb{E}_{x_0, \epsilon}\left[\frac{1}{2 \sigma_t^2} \| "
        r"\tilde\mu_t\left(x_t(x_0, \epsilon), \frac{1}{\sqrt{\bar\alpha_t}} (x_t(x_0, \epsilon) "
        r"- \sqrt{1 - \bar\alpha_t} \epsilon)\right) \right.",
        r"\quad \left. - \mu_\theta(x_t(x_0, \epsilon), t) \|^2\right]"],
        "Eq. 8, with $x_0$ written as what is left of $x_t$ without its noise.",
        "ddpm.DDPM.posterior_sample", "eq_7_of_eq_15_is_eq_11 "
        "a_step_is_the_posterior_mean_of_the_clipped_estimate_plus_sigma_z"),
    "Eq. 10": E(
        r"= \mathbb{E}_{x_0, \epsilon}\left[\frac{1}{2 \sigma_t^2} \| \frac{1}{\sqrt{\alpha_t}} "
        r"\left(x_t(x_0, \epsilon) - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}} \epsilon\right) - "
        r"\mu_\theta(x_t(x_0, \epsilon), t) \|^2\right]",
        "So the mean to aim at is $x_t$ minus a little of the noise in it.",
        "ddpm.DDPM.posterior_sample", "eq_7_of_eq_15_is_eq_11 "
        "a_step_is_the_posterior_mean_of_the_clipped_estimate_plus_sigma_z"),
    "Eq. 11": E(
        [r"\mu_\theta(x_t, t) = \tilde\mu_t\left(x_t, \frac{1}{\sqrt{\bar\alpha_t}} (x_t - "
        r"\sqrt{1 - \bar\alpha_t} \epsilon_\theta(x_t))\right)",
        r"= \frac{1}{\sqrt{\alpha_t}} \left(x_t - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}} "
        r"\epsilon_\theta(x_t, t)\right)"],
        r"The network is asked for that noise. Here the first form is computed, so that $\hat "
        "x_0$ can be clipped.", "ddpm.DDPM.posterior_sample",
        "eq_7_of_eq_15_is_eq_11 clipping_changes_nothing_where_nothing_is_clipped"),
    "Eq. 12": E(
        r"\mathbb{E}_{x_0, \epsilon}\left[\frac{\beta_t^2}{2 \sigma_t^2 \alpha_t (1 - "
        r"\bar\alpha_t)} \| \epsilon - \epsilon_\theta(\sqrt{\bar\alpha_t} x_0 + \sqrt{1 - "
        r"\bar\alpha_t} \epsilon, t) \|^2\right]",
        "With Eq. 11 the term is an error in the noise, with a weight that depends on t. The code "
        "has the KL divergence itself; its test writes the weight out.",
        "papers.kit.analytic.kl",
        "papers.variational_bound.eq_8_without_its_constant_is_the_weighted_loss_of_eq_12"),
    "Eq. 13": E(
        [r"p_\theta(x_0 \mid x_1) = \prod_{i=1}^D \int_{\delta_-(x_0^i)}^{\delta_+(x_0^i)} "
        r"\mathcal{N}(x; \mu_\theta^i(x_1, 1), \sigma_1^2) \, dx",
        r"$\delta_+(x) = \infty$ if $x = 1$, else $x + \frac{1}{255}$",
        r"$\delta_-(x) = -\infty$ if $x = -1$, else $x - \frac{1}{255}$"],
        "The last step as a probability of each of 256 pixel values.",
        "papers.variational_bound.decoder_nll",
        "the_256_bins_sum_to_1 the_decoder_is_the_gaussian_integrated_over_the_bin"),
    "Eq. 14": E(
        r"L_{\mathrm{simple}}(\theta) = \mathbb{E}_{t, x_0, \epsilon}\left[ \| \epsilon - "
        r"\epsilon_\theta(\sqrt{\bar\alpha_t} x_0 + \sqrt{1 - \bar\alpha_t} \epsilon, t) "
        r"\|^2\right]", "Eq. 12 without its weight: what is trained.", "ddpm.DDPM.loss",
        "the_loss_is_the_mean_squared_error_of_the_noise_in_x_t"),
    "Eq. 15": E(
        r"x_0 \approx \hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t} \epsilon_\theta(x_t)) / "
        r"\sqrt{\bar\alpha_t}",
        "What the network believes $x_0$ to be. An error in the noise counts 157 times in it at t "
        "= T of the linear schedule: why sampling clips it.",
        "ddpm.DDPM.predict_x_0 ddpm.DDPM.estimate_x_0",
        "eq_15_undoes_eq_4 clipping_changes_nothing_where_nothing_is_clipped "
        "a_model_that_has_learned_nothing_still_gives_pixels_in_range"),
    "Eq. 16": E(
        r"L = D_{\mathrm{KL}}(q(x_T) \,\|\, p(x_T)) + \mathbb{E}_q\left[\sum_{t \geq 1} "
        r"D_{\mathrm{KL}}(q(x_{t-1} \mid x_t) \,\|\, p_\theta(x_{t-1} \mid x_t))\right] + H(x_0)",
        "The bound without conditioning on $x_0$. It cannot be computed for images; its test is "
        "on Gaussian data.", "papers.variational_bound.bound",
        "eq_16_is_eq_5_in_the_mean_over_the_data"),
    "Eq. 17 to 22": E(
        [r"L = \mathbb{E}_q\left[-\log \frac{p_\theta(x_{0:T})}{q(x_{1:T} \mid x_0)}\right]",
        r"= \mathbb{E}_q\left[-\log p(x_T) - \sum_{t \geq 1} \log \frac{p_\theta(x_{t-1} \mid "
        r"x_t)}{q(x_t \mid x_{t-1})}\right]",
        r"= \mathbb{E}_q\left[-\log p(x_T) - \sum_{t > 1} \log \frac{p_\theta(x_{t-1} \mid "
        r"x_t)}{q(x_t \mid x_{t-1})} - \log \frac{p_\theta(x_0 \mid x_1)}{q(x_1 \mid x_0)}\right]",
        r"= \mathbb{E}_q\left[-\log p(x_T) - \sum_{t > 1} \log \frac{p_\theta(x_{t-1} \mid "
        r"x_t)}{q(x_{t-1} \mid x_t, x_0)} \cdot \frac{q(x_{t-1} \mid x_0)}{q(x_t \mid x_0)} - "
        r"\log \frac{p_\theta(x_0 \mid x_1)}{q(x_1 \mid x_0)}\right]",
        r"= \mathbb{E}_q\left[-\log \frac{p(x_T)}{q(x_T \mid x_0)} - \sum_{t > 1} \log "
        r"\frac{p_\theta(x_{t-1} \mid x_t)}{q(x_{t-1} \mid x_t, x_0)} - \log p_\theta(x_0 \mid "
        r"x_1)\right]",
        r"= \mathbb{E}_q\left[D_{\mathrm{KL}}(q(x_T \mid x_0) \,\|\, p(x_T)) + \sum_{t > 1} "
        r"D_{\mathrm{KL}}(q(x_{t-1} \mid x_t, x_0) \,\|\, p_\theta(x_{t-1} \mid x_t)) \right.",
        r"\quad \left. - \log p_\theta(x_0 \mid x_1)\right]"],
        "From Eq. 3 to Eq. 5: Bayes' rule turns each step around, and the sum telescopes.",
        "papers.variational_bound.bound", "eq_3_is_eq_5"),
    "Eq. 23 to 26": E(
        [r"L = \mathbb{E}_q\left[-\log p(x_T) - \sum_{t \geq 1} \log \frac{p_\theta(x_{t-1} \mid "
        r"x_t)}{q(x_t \mid x_{t-1})}\right]",
        r"= \mathbb{E}_q\left[-\log p(x_T) - \sum_{t \geq 1} \log \frac{p_\theta(x_{t-1} \mid "
        r"x_t)}{q(x_{t-1} \mid x_t)} \cdot \frac{q(x_{t-1})}{q(x_t)}\right]",
        r"= \mathbb{E}_q\left[-\log \frac{p(x_T)}{q(x_T)} - \sum_{t \geq 1} \log "
        r"\frac{p_\theta(x_{t-1} \mid x_t)}{q(x_{t-1} \mid x_t)} - \log q(x_0)\right]",
        r"= D_{\mathrm{KL}}(q(x_T) \,\|\, p(x_T)) + \mathbb{E}_q\left[\sum_{t \geq 1} "
        r"D_{\mathrm{KL}}(q(x_{t-1} \mid x_t) \,\|\, p_\theta(x_{t-1} \mid x_t))\right] + H(x_0)"],
        "From Eq. 3 to Eq. 16, in the same way without $x_0$.", "papers.variational_bound.bound",
        "eq_16_is_eq_5_in_the_mean_over_the_data"),
    "Algorithm 1": E(["repeat", r"   $x_0 \sim q(x_0)$",
        r"   $t \sim \mathrm{Uniform}(\{1, \ldots, T\})$", r"   $\epsilon \sim \mathcal{N}(0, I)$",
        r"   take a gradient descent step on $\nabla_\theta \| \epsilon - "
        r"\epsilon_\theta(\sqrt{\bar\alpha_t} x_0 + \sqrt{1 - \bar\alpha_t} \epsilon, t) \|^2$",
        "until converged"],
        "Training: take an image to a random time, and ask the network which noise did it.",
        "train.train ddpm.DDPM.loss ddpm.DDPM.draw_t",
        "ddpm.training_times_cover_exactly_1_to_T_and_differ_within_a_batch "
        "a_step_is_warmed_up_clipped_adam_and_its_ema"),
    "Algorithm 2": E([r"$x_T \sim \mathcal{N}(0, I)$", r"for $t = T, \ldots, 1$ do",
        r"   $z \sim \mathcal{N}(0, I)$ if $t > 1$, else $z = 0$",
        r"   $x_{t-1} = \frac{1}{\sqrt{\alpha_t}} \left(x_t - \frac{1 - \alpha_t}{\sqrt{1 - "
        r"\bar\alpha_t}} \epsilon_\theta(x_t, t)\right) + \sigma_t z$", "end for", "return $x_0$"],
        "Sampling: T times the network, and noise after each step but the last.",
        "ddpm.DDPM.reverse_process ddpm.DDPM.p_sample ddpm.DDPM.posterior_sample",
        "if_all_data_is_one_point_samples_are_that_point only_the_last_step_adds_no_noise "
        "on_gaussian_data_samples_have_the_mean_and_std_of_the_exact_recursion"),
    "Algorithm 3": E([r"send $x_T \sim q(x_T \mid x_0)$ using $p(x_T)$",
        r"for $t = T - 1, \ldots, 2, 1$ do",
        r"   send $x_t \sim q(x_t \mid x_{t+1}, x_0)$ using $p_\theta(x_t \mid x_{t+1})$",
        "end for", r"send $x_0$ using $p_\theta(x_0 \mid x_1)$"],
        "A code for images whose length is the bound: the noisy version first, then better ones.",
        "papers.variational_bound.send", "the_receiver_gets_x_T_to_x_1_with_the_marginals_of_eq_4"),
    "Algorithm 4": E(["receive $x_T$ using $p(x_T)$", r"for $t = T - 1, \ldots, 1, 0$ do",
        r"   receive $x_t$ using $p_\theta(x_t \mid x_{t+1})$", "end for", "return $x_0$"],
        r"What the other end knows after each message; it can show $\hat x_0$ at any time.",
        "papers.variational_bound.send", "the_receiver_shows_eq_15_clipped_unless_told"),
    "Sec. 3.2": E(
        r"\Sigma_\theta(x_t, t) = \sigma_t^2 I, \quad \sigma_t^2 = \beta_t \quad \mathrm{or} "
        r"\quad \sigma_t^2 = \tilde\beta_t",
        r"The first is best if $x_0 \sim \mathcal{N}(0, I)$, the second if all data is one point. "
        "At t = 1 the second is 0, and the first is not used, since there z = 0.", "ddpm.DDPM",
        "sigma_is_the_standard_deviation_of_the_named_variance"),
    "Sec. 3.3": E(r"\{0, 1, \ldots, 255\} \rightarrow [-1, 1]",
        "Pixels are scaled linearly, to the size of the noise.", "data.to_model",
        "every_pixel_value_survives_the_round_trip"),
    "Sec. 4": E(r"T = 1000, \quad \beta_1 = 10^{-4}, \ldots, \beta_T = 0.02",
        "Evenly spaced: small steps, so that each can be undone by a Gaussian.",
        "schedules.linear_beta_schedule", "the_defaults_are_the_papers"),
    "Fig. 5": E(r"\sqrt{\| x_0 - \hat x_0 \|^2 / D}",
        "The distortion at t, against the bits received until then (Table 4).",
        "papers.variational_bound.rate_distortion",
        "the_rate_at_t_is_what_was_sent_so_far_and_the_distortion_is_an_rmse_on_0_to_255"),
    "Fig. 6": E("", r"Progressive generation: $\hat x_0$ as t falls.",
        "papers.experiments.progressive",
        "progressive_generation_shows_x_0_hat_at_the_times_asked_for"),
    "Fig. 7": E("", "Samples that share $x_t$: what of an image is decided by time t.",
        "papers.experiments.share", "samples_share_x_t_and_nothing_after_it"),
    "Fig. 8": E(r"\bar x_t = (1 - \lambda) x_t + \lambda x_t'",
        "Two images, mixed where they are noise and decoded (and Fig. 9).",
        "papers.experiments.interpolate",
        "images_are_mixed_and_decoded_at_the_time_they_were_noised_to"),
    "Appendix B": E("",
        "The network: a U-Net with attention at 16 x 16, told the time in each residual block.",
        "unet.UNet unet.ResidualBlock.forward",
        "the_default_is_the_papers_cifar10_network the_wiring_is_a_u "
        "the_time_and_each_image_matter_and_images_do_not_mix"),
})
EQUATIONS["Kingma & Welling 2014"] = Paper(
    "Auto-Encoding Variational Bayes", "https://arxiv.org/abs/1312.6114", {
    "Sec. 2.2": E(
        r"\mathcal{L}(\theta, \phi; x) = -D_{\mathrm{KL}}(q_\phi(z \mid x) \,\|\, p_\theta(z)) + "
        r"\mathbb{E}_{q_\phi(z \mid x)}[\log p_\theta(x \mid z)]",
        r"The bound of an autoencoder, from below. Of a chain of one step our L is $-\mathcal{L}$: "
        r"$x_1$ is the code z, $q(x_1 \mid x_0)$ an encoder that is not trained, $L_1$ the first "
        "term and $L_0$ the second.", "papers.variational_bound.bound",
        "a_chain_of_one_step_has_two_terms of_data_n_0_1_one_step_has_the_exact_likelihood"),
}, "Compared with those who explain the paper section by section.")
EQUATIONS["Vaswani et al. 2017"] = Paper(
    "Attention Is All You Need", "https://arxiv.org/abs/1706.03762", {
    "Sec. 3.2.1": E(
        r"\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q "
        r"K^{\mathrm{T}}}{\sqrt{d_k}}\right) V",
        "Each pixel asks all others, and takes a mean of what they say. Here a pixel is a column, "
        "so that all is transposed.", "unet.Attention",
        "attention_is_softmax_q_k_v_over_the_pixels"),
    "Sec. 3.5": E([r"PE_{(pos, 2i)} = \sin(pos / 10000^{2i / d_{\mathrm{model}}})",
        r"PE_{(pos, 2i+1)} = \cos(pos / 10000^{2i / d_{\mathrm{model}}})"],
        "A number as waves, from fast to slow; pos is the time t, and here all sines come before "
        "all cosines.", "unet.timestep_embedding", "the_time_embedding_is_sines_then_cosines"),
})
EQUATIONS["Nichol & Dhariwal 2021"] = Paper(
    "Improved Denoising Diffusion Probabilistic Models", "https://arxiv.org/abs/2102.09672", {
    "Eq. 15": E(r"\Sigma_\theta(x_t, t) = \exp(v \log \beta_t + (1 - v) \log \tilde\beta_t)",
        "A variance that the network chooses, between the two fixed ones, by its output v.",
        "papers.improved_ddpm.Sigma_theta",
        "v_moves_the_variance_from_beta_tilde_to_beta_on_a_log_scale"),
    "Eq. 16": E(r"L_{\mathrm{hybrid}} = L_{\mathrm{simple}} + \lambda L_{\mathrm{vlb}}",
        "The mean learns from the one, v from the other alone.", "papers.improved_ddpm.L_hybrid",
        "l_hybrid_is_l_simple_plus_lambda_times_all_of_l_vlb_and_l_vlb_a_term_over_p "
        "the_gradient_of_l_vlb_in_l_hybrid_stops_at_the_mean"),
    "Eq. 17": E(
        r"\bar\alpha_t = \frac{f(t)}{f(0)}, \quad f(t) = \cos\left(\frac{t/T + s}{1 + s} \cdot "
        r"\frac{\pi}{2}\right)^2", "Fewer steps are spent on what is noise already.",
        "schedules.cosine_beta_schedule", "cosine_alpha_bar_is_the_squared_cosine_of_eq_17"),
    "Eq. 18": E(
        r"L_{\mathrm{vlb}} = \mathbb{E}_{t \sim p_t}\left[\frac{L_t}{p_t}\right], \quad p_t "
        r"\propto \sqrt{\mathbb{E}[L_t^2]}, \quad \sum p_t = 1",
        "Large terms are drawn more often and weigh less: the same mean, less noise. Its $L_t$ is "
        "our $L_{t-1}$.", "papers.improved_ddpm.L_vlb",
        "importance_sampling_estimates_the_sum_of_the_terms_and_with_less_noise"),
    "Eq. 19": E(
        r"\beta_{S_t} = 1 - \frac{\bar\alpha_{S_t}}{\bar\alpha_{S_{t-1}}}, \quad "
        r"\tilde\beta_{S_t} = \frac{1 - \bar\alpha_{S_{t-1}}}{1 - \bar\alpha_{S_t}} \beta_{S_t}",
        r"A chain of the times $S_1 < \ldots < S_K$ alone, with the $\bar\alpha$ they had.",
        "papers.kit.chain.respace", "a_shorter_chain_has_the_alpha_bar_of_the_times_it_keeps"),
}, "Formulas compared with the authors' code, the numbers 15 and 17 with those who quote "
    "them; not verified: the numbers 16, 18 and 19.")
EQUATIONS["Song, Meng & Ermon 2020"] = Paper(
    "Denoising Diffusion Implicit Models", "https://arxiv.org/abs/2010.02502", {
    "Eq. 12": E(
        r"x_{t-1} = \sqrt{\alpha_{t-1}} \left(\frac{x_t - \sqrt{1 - \alpha_t} "
        r"\epsilon_\theta^{(t)}(x_t)}{\sqrt{\alpha_t}}\right) + \sqrt{1 - \alpha_{t-1} - "
        r"\sigma_t^2} \cdot \epsilon_\theta^{(t)}(x_t) + \sigma_t \epsilon_t",
        r"A jump to any earlier time: $\hat x_0$, with as much noise as is due there, old and "
        r"new. The paper's $\alpha_t$ is our $\bar\alpha_t$.", "papers.ddim.step",
        "a_jump_is_eq_12_with_the_sigma_of_eq_16 a_jump_keeps_the_marginals_whatever_eta"),
    "Eq. 13": E(
        r"\frac{x_{t-\Delta t}}{\sqrt{\alpha_{t-\Delta t}}} = \frac{x_t}{\sqrt{\alpha_t}} + "
        r"\left(\sqrt{\frac{1 - \alpha_{t-\Delta t}}{\alpha_{t-\Delta t}}} - \sqrt{\frac{1 - "
        r"\alpha_t}{\alpha_t}}\right) \epsilon_\theta^{(t)}(x_t)",
        "Without new noise it is a step of Euler's method, and can be taken upwards, to encode.",
        "papers.ddim.encode", "what_was_encoded_is_decoded_and_the_better_the_more_steps"),
    "Eq. 14": E(
        r"d\bar x(t) = \epsilon_\theta^{(t)}\left(\frac{\bar x(t)}{\sqrt{\sigma^2 + 1}}\right) "
        r"d\sigma(t)",
        r"The ODE that these steps solve, where $\bar x = x / \sqrt{\alpha}$ and $\sigma = "
        r"\sqrt{1 - \alpha} / \sqrt{\alpha}$; known on Gaussian data.",
        "papers.kit.analytic.follow_gaussian",
        "the_ode_of_gaussian_data_carries_q_x_t_to_q_x_0_and_quantiles_to_quantiles "
        "papers.ddim.ddim_converges_to_the_exact_ode_with_order_1_in_both_directions"),
    "Eq. 16": E(
        r"\sigma_{\tau_i}(\eta) = \eta \sqrt{(1 - \alpha_{\tau_{i-1}}) / (1 - \alpha_{\tau_i})} "
        r"\sqrt{1 - \alpha_{\tau_i} / \alpha_{\tau_{i-1}}}",
        r"How much of the noise is new: none with $\eta = 0$; with $\eta = 1$, and every time, "
        r"that of Algorithm 2 of Ho et al. with $\tilde\beta_t$.", "papers.ddim.step",
        "sigma_is_that_of_eq_16_to_the_digits_of_float64 "
        "with_eta_1_a_step_to_t_minus_1_is_a_step_of_algorithm_2_with_beta_tilde"),
    "Sec. 4.2": E([r"[\tau_1, \ldots, \tau_S] \subset [1, \ldots, T]",
        r"x_{\tau_S} \rightarrow x_{\tau_{S-1}} \rightarrow \ldots \rightarrow x_{\tau_1} "
        r"\rightarrow x_0"],
        "S steps, one for each time in the list, and as many evaluations of the network, instead "
        "of T. The program compares S = 5 to T; with --grid it takes --steps, 20.",
        "papers.ddim.sample papers.ddim.jumps",
        "sampling_asks_about_the_times_once_each_from_the_last_to_the_first "
        "with_eta_1_and_every_time_ddim_is_algorithm_2_with_beta_tilde"),
    "Appendix D.2": E(r"\tau_i = \lfloor c i \rfloor",
        "The times that are visited, evenly spaced; here c = T / S, so that the last is T.",
        "papers.kit.chain.subsequence", "the_times_are_the_papers_linear_choice_and_end_in_T"),
    "Appendix D.5": E(
        [r"x_T^{(\alpha)} = \frac{\sin((1 - \alpha) \theta)}{\sin(\theta)} x_T^{(0)} + "
        r"\frac{\sin(\alpha \theta)}{\sin(\theta)} x_T^{(1)}",
        r"\theta = \arccos\left(\frac{(x_T^{(0)})^{\mathrm{T}} x_T^{(1)}}{\| x_T^{(0)} \| \, \| "
        r"x_T^{(1)} \|}\right)"],
        r"Between two noises lie noises of the same length; $\alpha$ is a weight.",
        "papers.ddim.slerp", "slerp_is_the_papers_formula_for_each_pair_on_its_own"),
})
EQUATIONS["Liu et al. 2022"] = Paper(
    "Pseudo Numerical Methods for Diffusion Models on Manifolds",
    "https://arxiv.org/abs/2202.09778", {
    "Eq. 9, 11": E([r"x_{t-\delta} - x_t = (\bar\alpha_{t-\delta} - \bar\alpha_t)",
        r"\quad \cdot \left(\frac{x_t}{\sqrt{\bar\alpha_t} (\sqrt{\bar\alpha_{t-\delta}} + "
        r"\sqrt{\bar\alpha_t})} - \frac{\epsilon_\theta(x_t, t)}{\sqrt{\bar\alpha_t} (\sqrt{(1 - "
        r"\bar\alpha_{t-\delta}) \bar\alpha_t} + \sqrt{(1 - \bar\alpha_t) "
        r"\bar\alpha_{t-\delta}})}\right)",
        r"\phi(x_t, \epsilon_t, t, t-\delta) = "
        r"\frac{\sqrt{\bar\alpha_{t-\delta}}}{\sqrt{\bar\alpha_t}} x_t - "
        r"\frac{\bar\alpha_{t-\delta} - \bar\alpha_t}{\sqrt{\bar\alpha_t} (\sqrt{(1 - "
        r"\bar\alpha_{t-\delta}) \bar\alpha_t} + \sqrt{(1 - \bar\alpha_t) "
        r"\bar\alpha_{t-\delta}})} \epsilon_t"],
        r"A jump of DDIM, written as a change, and the same along any $\epsilon_t$: exact if that "
        "is the noise in $x_t$.", "papers.pndm.transfer",
        "the_transfer_part_is_eq_11_as_the_paper_writes_it "
        "the_transfer_part_is_a_jump_of_ddim_and_exact_if_eps_is_the_noise"),
    "Eq. 12": E([r"e_t = \epsilon_\theta(x_t, t)",
        r"e_t' = \frac{1}{24} (55 e_t - 59 e_{t-\delta} + 37 e_{t-2\delta} - 9 e_{t-3\delta})",
        r"x_{t+\delta} = \phi(x_t, e_t', t, t+\delta)"],
        r"Four known $\epsilon_\theta$ make a jump of higher order. Time runs back: $\delta < 0$.",
        "papers.pndm.sample", "the_steps_are_algorithm_2_written_out"),
    "Eq. 13": E(
        [r"e_t^1 = \epsilon_\theta(x_t, t), \quad e_t^2 = \epsilon_\theta(\phi(x_t, e_t^1, t, t + "
        r"\frac{\delta}{2}), t + \frac{\delta}{2})",
        r"e_t^3 = \epsilon_\theta(\phi(x_t, e_t^2, t, t + \frac{\delta}{2}), t + "
        r"\frac{\delta}{2}), \quad e_t^4 = \epsilon_\theta(\phi(x_t, e_t^3, t, t + \delta), t + "
        r"\delta)",
        r"e_t' = \frac{1}{6} (e_t^1 + 2 e_t^2 + 2 e_t^3 + e_t^4), \quad x_{t+\delta} = \phi(x_t, "
        r"e_t', t, t+\delta)"],
        "The first jumps take four evaluations each, since no four are known.",
        "papers.pndm.sample", "the_steps_are_algorithm_2_written_out"),
    "Algorithm 2": E([r"$x_T \sim \mathcal{N}(0, I)$", "for $t = T - 1, T - 2, T - 3$ do",
        "   $x_t, e_t$ of $x_{t+1}$ by Eq. 13", "end for", r"for $t = T - 4, \ldots, 1, 0$ do",
        "   $x_t, e_t$ of $x_{t+1}$ and all $e$ so far by Eq. 12", "end for", "return $x_0$"],
        "F-PNDM: second order, where DDIM is of first.", "papers.pndm.sample",
        "pndm_is_of_second_order_where_ddim_is_of_first"),
}, "Compared with the authors' code, the numbers with diffusers and Bumblebee; not verified: "
    "the lines of Algorithm 2, and how the paper counts time.")
EQUATIONS["Lu et al. 2022, DPM-Solver"] = Paper(
    "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps",
    "https://arxiv.org/abs/2206.00927", {
    "Sec. 3.1": E(r"\lambda_t = \log(\alpha_t / \sigma_t)",
        r"Half the log of the signal-to-noise ratio, as a clock. Their $\alpha_t$ is "
        r"$\sqrt{\bar\alpha_t}$ here, $\sigma_t$ is $\sqrt{1 - \bar\alpha_t}$.",
        "papers.dpm_solver.half_log_snr",
        "lambda_is_half_the_log_of_the_signal_to_noise_ratio"),
})
EQUATIONS["Lu et al. 2022, DPM-Solver++"] = Paper(
    "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
    "https://arxiv.org/abs/2211.01095", {
    "Proposition 4.1": E(
        r"x_t = \frac{\sigma_t}{\sigma_s} x_s + \sigma_t \int_{\lambda_s}^{\lambda_t} e^\lambda "
        r"\hat x_\theta(\hat x_\lambda, \lambda) \, d\lambda",
        "The ODE of DDIM from s to an earlier t (in the code s is the earlier): all but the "
        r"network is solved exactly. With $\hat x_\theta$, our $\hat x_0$, held fixed it is a jump "
        "of DDIM.", "papers.dpm_solver.sample",
        "order_1_is_ddim_to_rounding order_2_is_of_second_order_and_order_1_of_first"),
    "Algorithm 2": E([r"$h_i = \lambda_{t_i} - \lambda_{t_{i-1}}$ for $i = 1, \ldots, M$",
        r"$\tilde x_{t_0} = x_T$",
        r"$\tilde x_{t_1} = \frac{\sigma_{t_1}}{\sigma_{t_0}} \tilde x_{t_0} - \alpha_{t_1} "
        r"(e^{-h_1} - 1) x_\theta(\tilde x_{t_0}, t_0)$", r"for $i = 2, \ldots, M$ do",
        r"   $r_i = h_{i-1} / h_i$",
        r"   $D_i = \left(1 + \frac{1}{2 r_i}\right) x_\theta(\tilde x_{t_{i-1}}, t_{i-1}) - "
        r"\frac{1}{2 r_i} x_\theta(\tilde x_{t_{i-2}}, t_{i-2})$",
        r"   $\tilde x_{t_i} = \frac{\sigma_{t_i}}{\sigma_{t_{i-1}}} \tilde x_{t_{i-1}} - "
        r"\alpha_{t_i} (e^{-h_i} - 1) D_i$", "end for", r"return $\tilde x_{t_M}$"],
        r"2M: a line through the last two $\hat x_0$ instead of the last one. The last jump, to "
        r"t = 0, where $h_M$ is infinite, is of first order here.", "papers.dpm_solver.sample",
        "the_steps_are_algorithm_2_written_out a_jump_costs_one_evaluation_at_its_start"),
}, "Compared with the authors' code and with those who quote both, the number 2 with them; not "
    "verified: the number 4.1.")
EQUATIONS["Salimans & Ho 2022"] = Paper(
    "Progressive Distillation for Fast Sampling of Diffusion Models",
    "https://arxiv.org/abs/2202.00512", {
    "Sec. 4": E([r"v = \alpha_t \epsilon - \sigma_t x, \quad \hat x = \alpha_t z_t - \sigma_t \hat "
        r"v_\theta(z_t)",
        r"\| \epsilon - \hat\epsilon_\theta(z_t) \|_2^2 = \frac{\alpha_t^2}{\sigma_t^2} \| x - "
        r"\hat x_\theta(z_t) \|_2^2",
        r"\| v_t - \hat v_t \|_2^2 = \left(1 + \frac{\alpha_t^2}{\sigma_t^2}\right) \| x - "
        r"\hat x_t \|_2^2"],
        r"A target: the noise where there is none, minus the image where all is noise; and what an "
        r"error of each is in the others. Their x is $x_0$, $z_t$ is $x_t$, $\alpha_t$ is "
        r"$\sqrt{\bar\alpha_t}$, $\sigma_t$ is $\sqrt{1 - \bar\alpha_t}$.",
        "papers.parameterisations.v_of papers.parameterisations.min_snr",
        "v_is_the_derivative_of_x_t_by_the_angle_and_turns_back "
        "each_of_the_four_gives_the_others the_three_weights_of_min_snr_are_one_loss"),
    "Appendix D": E([r"\phi_t = \arctan(\sigma_t / \alpha_t), \quad z_\phi = \cos(\phi) x + "
        r"\sin(\phi) \epsilon",
        r"v_\phi = \frac{d z_\phi}{d \phi} = \cos(\phi) \epsilon - \sin(\phi) x",
        r"\epsilon = \sin(\phi) z_\phi + \cos(\phi) v_\phi"],
        "v is the velocity on the way from the image to its noise, a quarter of a circle; so it "
        "turns back without a division.", "papers.parameterisations.eps_from_v",
        "v_is_the_derivative_of_x_t_by_the_angle_and_turns_back"),
}, "Compared with the paper's text; appendix D with those who quote it.")
EQUATIONS["Hang et al. 2023"] = Paper(
    "Efficient Diffusion Training via Min-SNR Weighting Strategy",
    "https://arxiv.org/abs/2303.09556", {
    "Sec. 3.4, 4.2": E([r"w_t = \min\{\mathrm{SNR}(t), \gamma\}, \quad \mathrm{SNR}(t) = "
        r"\alpha_t^2 / \sigma_t^2",
        r"of $\epsilon$: $\frac{\min\{\mathrm{SNR}(t), \gamma\}}{\mathrm{SNR}(t)} = "
        r"\min\{\frac{\gamma}{\mathrm{SNR}(t)}, 1\}$; of v: $\frac{\min\{\mathrm{SNR}(t), "
        r"\gamma\}}{\mathrm{SNR}(t) + 1}$"],
        r"A weight for the squared error of $\hat x_0$ that does not grow where hardly any noise "
        r"is, $\gamma = 5$; and the same loss by an error of $\epsilon$, or v.",
        "papers.parameterisations.min_snr", "the_three_weights_of_min_snr_are_one_loss "
        "the_weights_are_those_of_the_paper_and_the_wrong_clamp_is_far_from_them"),
})
EQUATIONS["Lin et al. 2023"] = Paper(
    "Common Diffusion Noise Schedules and Sample Steps are Flawed",
    "https://arxiv.org/abs/2305.08891", {
    "Sec. 3.1": E(
        r"\sqrt{\bar\alpha_t} \leftarrow \left(\sqrt{\bar\alpha_t} - \sqrt{\bar\alpha_T}\right) "
        r"\frac{\sqrt{\bar\alpha_1}}{\sqrt{\bar\alpha_1} - \sqrt{\bar\alpha_T}}",
        r"So $x_T$ is noise and nothing else, as it is where sampling begins. Algorithm 1 is this "
        "in PyTorch.", "papers.parameterisations.rescale",
        "the_rescaled_chain_ends_at_0_begins_as_before_and_keeps_its_proportions"),
    "Sec. 3.2, 3.3": E(
        [r"v_t = \sqrt{\bar\alpha_t} \epsilon - \sqrt{1 - \bar\alpha_t} x_0",
        r"v_T = -x_0 \quad \mathrm{where} \quad \bar\alpha_T = 0"],
        r"At T an $\epsilon_\theta$ says nothing and a $v_\theta$ what it takes the image for; "
        "sampling begins there.", "papers.parameterisations.zero_terminal",
        "at_the_end_eps_says_nothing_and_v_says_x_0 "
        "on_gaussian_data_mean_and_deviation_are_those_of_the_closed_recursion "
        "too_grey_from_noise_and_right_from_q_or_where_alpha_bar_is_0"),
}, "Compared with the paper's text, in a copy where v at T has not the sign that Eq. 11 gives it.")
EQUATIONS["Song & Ermon 2019"] = Paper(
    "Generative Modeling by Estimating Gradients of the Data Distribution",
    "https://arxiv.org/abs/1907.05600", {
    "Eq. 1": E(
        r"\mathbb{E}_{p_{\mathrm{data}}(x)}\left[\mathrm{tr}(\nabla_x s_\theta(x)) + \frac{1}{2} "
        r"\| s_\theta(x) \|_2^2\right]",
        r"Hyvarinen's loss: least where $s_\theta$ is the score, which nobody has to know.",
        "papers.score_matching.hyvarinen",
        "hyvarinens_has_the_trace_of_the_jacobian_and_takes_d_gradients"),
    "Eq. 2": E(
        r"\frac{1}{2} \mathbb{E}_{q_\sigma(\tilde x \mid x) p_{\mathrm{data}}(x)}\left[\| "
        r"s_\theta(\tilde x) - \nabla_{\tilde x} \log q_\sigma(\tilde x \mid x) \|_2^2\right]",
        "Vincent's: the score of noisy data, from the noise, with no gradients by x. The paper's "
        r"$\tilde x$ is x here, its x $x_0$.", "papers.score_matching.denoising",
        "denoising_and_slices_are_those_of_ncsn"),
    "Eq. 3": E(
        r"\mathbb{E}_{p_v} \mathbb{E}_{p_{\mathrm{data}}}\left[v^{\mathrm{T}} \nabla_x "
        r"s_\theta(x) v + \frac{1}{2} \| s_\theta(x) \|_2^2\right]",
        "The trace of Eq. 1 by a random direction: one gradient instead of D.",
        "papers.score_matching.sliced papers.ncsn.sliced_loss",
        "a_slice_is_v_j_v_and_takes_one_gradient "
        "papers.ncsn.the_sliced_loss_has_the_trace_of_the_jacobian_and_half_the_squared_norm"),
    "Eq. 4": E(
        r"\tilde x_t = \tilde x_{t-1} + \frac{\epsilon}{2} \nabla_x \log p(\tilde x_{t-1}) + "
        r"\sqrt{\epsilon} z_t", "Langevin dynamics draws from p, given only its score.",
        "papers.ncsn.annealed_langevin",
        "a_single_level_settles_at_a_variance_that_is_too_large_by_the_closed_form"),
    "Eq. 5, 6": E(
        [r"\ell(\theta; \sigma) = \frac{1}{2} \mathbb{E}_{p_{\mathrm{data}}(x)} "
        r"\mathbb{E}_{\tilde x \sim \mathcal{N}(x, \sigma^2 I)}\left[\| s_\theta(\tilde x, "
        r"\sigma) + \frac{\tilde x - x}{\sigma^2} \|_2^2\right]",
        r"\mathcal{L}(\theta; \{\sigma_i\}_{i=1}^L) = \frac{1}{L} \sum_{i=1}^L \lambda(\sigma_i) "
        r"\ell(\theta; \sigma_i)"],
        r"Eq. 2 for Gaussian noise, and its mean over the levels; with $\lambda(\sigma) = "
        r"\sigma^2$ each weighs the same, and it is $L_{\mathrm{simple}}$ of a DDPM.",
        "papers.ncsn.dsm_loss",
        "with_lambda_sigma_squared_every_level_weighs_the_same "
        "denoising_score_matching_is_L_simple"),
    "Algorithm 1": E([r"initialize $\tilde x_0$", r"for $i = 1, \ldots, L$ do",
        r"   $\alpha_i = \epsilon \cdot \sigma_i^2 / \sigma_L^2$", r"   for $t = 1, \ldots, T$ do",
        r"      draw $z_t \sim \mathcal{N}(0, I)$",
        r"      $\tilde x_t = \tilde x_{t-1} + \frac{\alpha_i}{2} s_\theta(\tilde x_{t-1}, "
        r"\sigma_i) + \sqrt{\alpha_i} z_t$", "   end for", r"   $\tilde x_0 = \tilde x_T$",
        "end for", r"return $\tilde x_T$"],
        r"From large noise, where modes are not apart, to small; $\alpha_i$ is a step size.",
        "papers.ncsn.annealed_langevin",
        "a_step_is_algorithm_1_and_every_level_has_its_steps_and_step_size"),
})
EQUATIONS["Song et al. 2021"] = Paper(
    "Score-Based Generative Modeling through Stochastic Differential Equations",
    "https://arxiv.org/abs/2011.13456", {
    "Eq. 3, 7": E(
        [r"\theta^* = \arg\min_\theta \sum_{i=1}^N (1 - \alpha_i) "
        r"\mathbb{E}_{p_{\mathrm{data}}(x)} \mathbb{E}_{p_{\alpha_i}(\tilde x \mid x)}\left[\| "
        r"s_\theta(\tilde x, i) - \nabla_{\tilde x} \log p_{\alpha_i}(\tilde x \mid x) "
        r"\|_2^2\right]",
        r"\theta^* = \arg\min_\theta \mathbb{E}_t\left\{\lambda(t) \mathbb{E}_{x(0)} "
        r"\mathbb{E}_{x(t) \mid x(0)}\left[\| s_\theta(x(t), t) - \nabla_{x(t)} \log p_{0t}(x(t) "
        r"\mid x(0)) \|_2^2\right]\right\}"],
        r"$L_{\mathrm{simple}}$ as score matching, and for every t, with $\lambda(t) = 1 - "
        r"\bar\alpha_t$. The paper's $\alpha_i$ is our $\bar\alpha_t$, its t our t / T.",
        "papers.score_sde.VPSDE.score", "L_simple_is_eq_7_with_lambda_1_minus_alpha_bar "
        "the_score_is_that_of_the_kernel_at_whole_times_and_in_between"),
    "Eq. 5": E("dx = f(x, t) dt + g(t) dw", "Any diffusion: a drift, and Brownian motion w.",
        "papers.score_sde.VPSDE", "drift_and_diffusion_are_those_of_eq_9_11_and_12"),
    "Eq. 6": E(r"dx = [f(x, t) - g(t)^2 \nabla_x \log p_t(x)] dt + g(t) d\bar w",
        "The same process backwards in time; it takes the score, and nothing else.",
        "papers.score_sde.euler_maruyama papers.processes.drift",
        "euler_maruyama_at_whole_times_takes_the_steps_of_eq_6_with_the_beta_of_the_chain "
        "papers.processes.from_one_x_T_the_sde_ends_as_bayes_rule_says"),
    "Eq. 8, 9": E([r"x_i = x_{i-1} + \sqrt{\sigma_i^2 - \sigma_{i-1}^2} z_{i-1}",
        r"dx = \sqrt{\frac{d[\sigma^2(t)]}{dt}} dw"],
        "The chain of NCSN, where noise is added and nothing shrinks, and its limit: the VE SDE.",
        "papers.score_sde.VESDE", "of_the_ve_sde_the_steps_are_those_of_eq_8_backwards"),
    "Eq. 10, 11": E([r"x_i = \sqrt{1 - \beta_i} x_{i-1} + \sqrt{\beta_i} z_{i-1}",
        r"dx = -\frac{1}{2} \beta(t) x \, dt + \sqrt{\beta(t)} dw"],
        r"The chain of DDPM and its limit, the VP SDE. papers.processes counts time as c = $-\log "
        r"\bar\alpha_t$, of which $\beta(t) dt$ is the dc, so that no $\beta$ is left.",
        "papers.score_sde.VPSDE papers.processes.drift",
        "drift_and_diffusion_are_those_of_eq_9_11_and_12 "
        "papers.processes.each_drift_moves_the_density_as_its_fokker_planck_equation_says "
        "papers.processes.the_steps_of_eq_2_are_joined_to_eq_4_and_are_those_of_the_sde"),
    "Eq. 12": E(
        r"dx = -\frac{1}{2} \beta(t) x \, dt + \sqrt{\beta(t) (1 - e^{-2 \int_0^t \beta(s) ds})} "
        "dw", "Less noise at every t: the sub-VP SDE.", "papers.score_sde.SubVPSDE",
        "drift_and_diffusion_are_those_of_eq_9_11_and_12"),
    "Eq. 13": E(r"dx = \left[f(x, t) - \frac{1}{2} g(t)^2 \nabla_x \log p_t(x)\right] dt",
        "Without noise, and with the same density at every t: the probability flow ODE.",
        "papers.score_sde.VPSDE.flow papers.score_sde.heun papers.score_sde.adaptive "
        "papers.processes.drift",
        "the_flow_moves_the_density_as_the_fokker_planck_equation_says "
        "the_ode_keeps_the_quantiles_of_a_gaussian_and_heun_is_of_order_2 "
        "papers.processes.the_ode_keeps_quantiles_and_order_and_its_error_is_of_first_order"),
    "Eq. 29": E(
        [r"VE: $p_{0t}(x(t) \mid x(0)) = \mathcal{N}(x(t); x(0), [\sigma^2(t) - \sigma^2(0)] I)$",
        r"VP: $\mathcal{N}(x(t); x(0) e^{-\frac{1}{2} \int_0^t \beta(s) ds}, I - I e^{-\int_0^t "
        r"\beta(s) ds})$",
        r"sub-VP: $\mathcal{N}(x(t); x(0) e^{-\frac{1}{2} \int_0^t \beta(s) ds}, [1 - "
        r"e^{-\int_0^t \beta(s) ds}]^2 I)$"],
        "What each makes of an image: one Brownian motion in three scales.",
        "papers.score_sde.VPSDE.k", "k_makes_the_kernels_of_eq_29_of_the_kernel_of_the_chain"),
    "Eq. 35": E(
        r"\frac{\partial p_t(x)}{\partial t} = -\sum_i \frac{\partial}{\partial x_i} [f_i(x, t) "
        r"p_t(x)] + \frac{1}{2} \sum_{i,j} \frac{\partial^2}{\partial x_i \partial "
        r"x_j}\left[\sum_k G_{ik}(x, t) G_{jk}(x, t) p_t(x)\right]",
        "Fokker & Planck's equation, of the density of Eq. 5 with a matrix G for g.",
        "papers.processes.fokker_planck",
        "finite_volumes_keep_all_mass_and_are_of_second_order "
        "each_drift_moves_the_density_as_its_fokker_planck_equation_says"),
    "Eq. 38 to 40": E([r"dx = \tilde f_\theta(x, t) dt",
        r"\tilde f_\theta(x, t) = f(x, t) - \frac{1}{2} \nabla \cdot [G(x, t) G(x, "
        r"t)^{\mathrm{T}}] - \frac{1}{2} G(x, t) G(x, t)^{\mathrm{T}} s_\theta(x, t)",
        r"\log p_0(x(0)) = \log p_T(x(T)) + \int_0^T \nabla \cdot \tilde f_\theta(x(t), t) dt",
        r"\nabla \cdot \tilde f_\theta(x, t) = "
        r"\mathbb{E}_{p(\epsilon)}\left[\epsilon^{\mathrm{T}} \nabla \tilde f_\theta(x, t) "
        r"\epsilon\right]"],
        "How likely an image is: how the ODE of the network's score squeezes and stretches, found "
        r"by random directions, $\epsilon$ here and v in the code.",
        "papers.score_sde.log_likelihood",
        "on_gaussian_data_the_likelihood_of_every_sde_is_the_closed_form "
        "hutchinsons_estimate_is_unbiased_and_its_probe_is_drawn_once_for_all_t"),
    "Eq. 46": E(
        r"x_i = x_{i+1} - f_{i+1}(x_{i+1}) + G_{i+1} G_{i+1}^{\mathrm{T}} s_\theta(x_{i+1}, i + "
        "1) + G_{i+1} z_{i+1}", "Eq. 6 in steps of the chain: the predictor.",
        "papers.score_sde.predictor_corrector",
        "predictor_and_corrector_at_whole_times_are_those_of_algorithms_3_and_5"),
    "Algorithms 1, 3 and 5": E([r"$x_N \sim \mathcal{N}(0, I)$", r"for $i = N - 1, \ldots, 0$ do",
        r"   $x_i = (2 - \sqrt{1 - \beta_{i+1}}) x_{i+1} + \beta_{i+1} s_\theta(x_{i+1}, i + 1) + "
        r"\sqrt{\beta_{i+1}} z$", r"   for $j = 1, \ldots, M$ do",
        r"      $g = s_\theta(x_i, i), \quad \epsilon = 2 \alpha_i (r \| z \|_2 / \| g \|_2)^2$",
        r"      $x_i = x_i + \epsilon g + \sqrt{2 \epsilon} z$", "return $x_0$"],
        "A step back, then M of Langevin dynamics at its time, here 1; each z is drawn anew.",
        "papers.score_sde.predictor_corrector",
        "predictor_and_corrector_at_whole_times_are_those_of_algorithms_3_and_5"),
})
EQUATIONS["Karras et al. 2022"] = Paper(
    "Elucidating the Design Space of Diffusion-Based Generative Models",
    "https://arxiv.org/abs/2206.00364", {
    "Eq. 1, 3": E(
        [r"dx = -\dot\sigma(t) \sigma(t) \nabla_x \log p(x; \sigma(t)) \, dt",
        r"\nabla_x \log p(x; \sigma) = (D(x; \sigma) - x) / \sigma^2"],
        "The ODE, for an image x that has noise of deviation $\\sigma$ and is not shrunk, by a D "
        r"that removes it: our $\hat x_0$. With $\sigma(t) = t$ the way down leads from x to D.",
        "papers.edm.sample",
        "the_order_is_that_of_euler_and_heun with_order_1_it_is_ddim_at_the_same_times"),
    "Eq. 5": E(
        [r"\sigma_{i < N} = \left(\sigma_{\max}^{1/\rho} + \frac{i}{N - 1} "
        r"\left(\sigma_{\min}^{1/\rho} - \sigma_{\max}^{1/\rho}\right)\right)^\rho, \quad \sigma_N "
        "= 0"],
        r"Levels of noise from the largest to none; the larger $\rho$, the shorter the last steps.",
        "papers.edm.levels", "the_levels_are_even_in_their_root_and_end_at_0"),
    "Algorithm 1": E([r"$x_0 \sim \mathcal{N}(0, t_0^2 I)$", r"for $i \in \{0, \ldots, N - 1\}$ do",
        r"   $d_i = (x_i - D_\theta(x_i; t_i)) / t_i$",
        r"   $x_{i+1} = x_i + (t_{i+1} - t_i) d_i$", r"   if $t_{i+1} \neq 0$ then",
        r"      $d_i' = (x_{i+1} - D_\theta(x_{i+1}; t_{i+1})) / t_{i+1}$",
        r"      $x_{i+1} = x_i + (t_{i+1} - t_i) \left(\frac{1}{2} d_i + \frac{1}{2} d_i'\right)$",
        "return $x_N$"],
        r"Heun's method, here as it is with $\sigma(t) = t$ and their scale s(t) = 1: the mean of "
        "the slopes at both ends of a step. Their $x_0$ is the noise.", "papers.edm.sample",
        "heun_asks_twice_a_step_but_for_the_last_and_ends_at_d "
        "the_order_is_that_of_euler_and_heun"),
    "Eq. 7": E(
        r"D_\theta(x; \sigma) = c_{\mathrm{skip}}(\sigma) x + c_{\mathrm{out}}(\sigma) "
        r"F_\theta(c_{\mathrm{in}}(\sigma) x; c_{\mathrm{noise}}(\sigma))",
        "A network F whose input and output are scaled, and to which x is added.",
        "papers.edm.preconditioned", "the_loss_is_the_squared_error_of_f"),
    "Eq. 8": E(
        [r"\mathbb{E}_{\sigma, y, n}\left[\lambda(\sigma) c_{\mathrm{out}}(\sigma)^2 \| "
        r"F_\theta(c_{\mathrm{in}}(\sigma) \cdot (y + n); c_{\mathrm{noise}}(\sigma)) \right.",
        r"\quad \left. - \frac{1}{c_{\mathrm{out}}(\sigma)} (y - c_{\mathrm{skip}}(\sigma) \cdot "
        r"(y + n)) \|_2^2\right]"],
        r"What F should say, which is what D should have said: the image y. Their n is $\sigma$ "
        "times the n of the code.", "papers.edm.loss", "the_loss_is_the_squared_error_of_f"),
    "Table 1": E([r"c_{\mathrm{skip}}(\sigma) = \sigma_{\mathrm{data}}^2 / (\sigma^2 + "
        r"\sigma_{\mathrm{data}}^2)",
        r"c_{\mathrm{out}}(\sigma) = \sigma \cdot \sigma_{\mathrm{data}} / "
        r"\sqrt{\sigma_{\mathrm{data}}^2 + \sigma^2}",
        r"c_{\mathrm{in}}(\sigma) = 1 / \sqrt{\sigma^2 + \sigma_{\mathrm{data}}^2}, \quad "
        r"c_{\mathrm{noise}}(\sigma) = \frac{1}{4} \ln(\sigma)",
        r"\lambda(\sigma) = (\sigma^2 + \sigma_{\mathrm{data}}^2) / (\sigma \cdot "
        r"\sigma_{\mathrm{data}})^2"],
        "So that input and target have variance 1, errors of F count as little as possible in D, "
        r"and every $\sigma$ counts alike (appendix B.6); $\sigma_{\mathrm{data}}$ is the size of "
        "the data.", "papers.edm.coefficients",
        "input_and_target_have_variance_1_and_errors_count_as_little_as_possible "
        "f_of_0_is_the_best_guess_of_noise_and_costs_1_at_every_sigma_whatever_the_data"),
    "Table 1, VP": E(r"c_{\mathrm{skip}}(\sigma) = 1, \quad c_{\mathrm{out}}(\sigma) = -\sigma, "
        r"\quad c_{\mathrm{in}}(\sigma) = 1 / \sqrt{\sigma^2 + 1}",
        r"These make a D of a network that says $\epsilon$, with $x_t / \sqrt{\bar\alpha_t}$ for x "
        r"and $\sigma^2 = 1 / \bar\alpha_t - 1$.", "papers.edm.denoiser",
        "a_network_of_ddpm_is_a_denoiser_at_its_levels_and_between_them "
        "with_order_1_it_is_ddim_at_the_same_times"),
})
EQUATIONS["Lipman et al. 2022"] = Paper(
    "Flow Matching for Generative Modeling", "https://arxiv.org/abs/2210.02747", {
    "Eq. 5": E(
        r"\mathcal{L}_{\mathrm{FM}}(\theta) = \mathbb{E}_{t, p_t(x)} \| v_t(x) - u_t(x) \|^2",
        "What is wanted: the velocity u that takes noise to data. Their t is 1 - t here: noise is "
        r"at t = 0, their $x_1$ is $x_0$, and velocities are turned around.",
        "papers.flow_matching.loss",
        "what_is_off_the_mean_velocity_costs_its_square_more"),
    "Eq. 8": E(r"u_t(x) = \int \, u_t(x \mid x_1) \frac{p_t(x \mid x_1) q(x_1)}{p_t(x)} \, d x_1",
        "u is the mean velocity of all that comes through x, known only of small data.",
        "papers.flow_matching.marginal",
        "its_velocity_is_the_mean_of_all_lines_through_a_point "
        "paths_take_noise_to_the_same_quantiles_of_the_data"),
    "Eq. 9, 23": E([r"\mathcal{L}_{\mathrm{CFM}}(\theta) = \mathbb{E}_{t, q(x_1), p_t(x \mid x_1)} "
        r"\| v_t(x) - u_t(x \mid x_1) \|^2",
        r"\mathcal{L}_{\mathrm{CFM}}(\theta) = \mathbb{E}_{t, q(x_1), p(x_0)} "
        r"\| v_t(\psi_t(x_0)) - (x_1 - (1 - \sigma_{\min}) x_0) \|^2"],
        r"Each path can stand for the mean: the gradient is that of Eq. 5. The second, on straight "
        r"lines $\psi_t(x_0)$, is what is trained, with $\sigma_{\min} = 0$.",
        "papers.flow_matching.loss", "the_loss_is_of_the_lines_between_pairs_at_all_times "
        "what_is_off_the_mean_velocity_costs_its_square_more"),
})
EQUATIONS["Liu, Gong & Liu 2022"] = Paper(
    "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
    "https://arxiv.org/abs/2209.03003", {
    "Eq. 1": E([r"\min_v \int_0^1 \mathbb{E}\left[\| (X_1 - X_0) - v(X_t, t) \|^2\right] dt",
        "X_t = t X_1 + (1 - t) X_0"],
        r"The same loss for any pairs of ends; $X_0$ is our $x_T$, $X_1$ our $x_0$, and t runs the "
        "other way.", "papers.flow_matching.loss",
        "the_loss_is_of_the_lines_between_pairs_at_all_times"),
    "Eq. 2": E(r"v^X(x, t) = \mathbb{E}[X_1 - X_0 \mid X_t = x]",
        "Where Eq. 1 is least: the mean of the directions of the lines through x.",
        "papers.flow_matching.marginal", "its_velocity_is_the_mean_of_all_lines_through_a_point"),
    "Sec. 2.1": E(r"Z^{k+1} = \mathrm{RectFlow}((Z_0^k, Z_1^k))",
        "Reflow: a flow learned from the pairs of ends that the last flow makes. In one dimension "
        "their lines do not cross, and it is straight.", "papers.flow_matching.straightened",
        "reflow_gives_each_point_the_velocity_of_the_pair_whose_line_goes_through_it "
        "on_the_line_one_step_is_exact_after_reflow_and_far_off_before "
        "training_goes_on_from_the_flow_with_pairs_of_its_own_paths"),
    "Sec. 2.2": E(r"S(Z) = \int_0^1 \mathbb{E}\left[\| (Z_1 - Z_0) - \dot Z_t \|^2\right] dt",
        "How far from straight the paths are; where it is 0, one step of Euler's method is exact.",
        "papers.flow_matching.straightness",
        "straightness_is_the_mean_square_of_what_velocities_are_off_the_line"),
}, "Compared with the paper's text; S(Z) with those who quote it.")
EQUATIONS["Tancik et al. 2020"] = Paper(
    "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains",
    "https://arxiv.org/abs/2006.10739", {
    "Eq. 5": E(
        r"\gamma(v) = [a_1 \cos(2 \pi b_1^{\mathrm{T}} v), a_1 \sin(2 \pi b_1^{\mathrm{T}} v), "
        r"\ldots, a_m \cos(2 \pi b_m^{\mathrm{T}} v), a_m \sin(2 \pi b_m^{\mathrm{T}} "
        r"v)]^{\mathrm{T}}",
        "A number as waves of random frequencies; here all $a_j = 1$, and the cosines come first.",
        "papers.time_features.FourierFeatures", "the_features_are_cosines_and_sines_of_2_pi_b_v"),
    "Eq. 6, 7": E(
        [r"k_\gamma(v_1, v_2) = \gamma(v_1)^{\mathrm{T}} \gamma(v_2) = \sum_{j=1}^m a_j^2 \cos(2 "
        r"\pi b_j^{\mathrm{T}} (v_1 - v_2)) = h_\gamma(v_1 - v_2)",
        r"h_\gamma(v_\Delta) = \sum_{j=1}^m a_j^2 \cos(2 \pi b_j^{\mathrm{T}} v_\Delta)"],
        "How alike two numbers look: it depends on their difference.",
        "papers.time_features.FourierFeatures",
        "their_product_is_a_gaussian_of_the_difference_in_the_mean_over_the_frequencies"),
})
EQUATIONS["Dhariwal & Nichol 2021"] = Paper(
    "Diffusion Models Beat GANs on Image Synthesis", "https://arxiv.org/abs/2105.05233", {
    "Algorithm 1": E([r"$x_T \sim \mathcal{N}(0, I)$", r"for $t = T, \ldots, 1$ do",
        r"   $\mu, \Sigma = \mu_\theta(x_t), \Sigma_\theta(x_t)$",
        r"   $x_{t-1} \sim \mathcal{N}(\mu + s \Sigma \nabla_{x_t} \log p_\phi(y \mid x_t), "
        r"\Sigma)$", "end for", "return $x_0$"],
        "Each step is shifted to where a classifier of noisy images sees more of class y.",
        "papers.classifier_guidance.step papers.classifier_guidance.sample",
        "a_step_is_p_sample_with_its_mean_shifted_by_s_sigma_squared_times_the_gradient "
        "guided_by_a_parabola_gaussian_data_keep_the_mean_and_variance_of_the_exact_recursion"),
    "Algorithm 2": E([r"$x_T \sim \mathcal{N}(0, I)$", r"for $t = T, \ldots, 1$ do",
        r"   $\hat\epsilon = \epsilon_\theta(x_t) - \sqrt{1 - \bar\alpha_t} \nabla_{x_t} \log "
        r"p_\phi(y \mid x_t)$",
        r"   $x_{t-1} = \sqrt{\bar\alpha_{t-1}} \left(\frac{x_t - \sqrt{1 - \bar\alpha_t} "
        r"\hat\epsilon}{\sqrt{\bar\alpha_t}}\right) + \sqrt{1 - \bar\alpha_{t-1}} \hat\epsilon$",
        "end for", "return $x_0$"],
        r"The same as another score, for DDIM; the listing forgets s, a factor of $\nabla$.",
        "papers.classifier_guidance.guided",
        "with_any_scale_it_is_the_score_of_p_x_t_times_p_y_given_x_t_to_the_s"),
})
EQUATIONS["Ho & Salimans 2022"] = Paper(
    "Classifier-Free Diffusion Guidance", "https://arxiv.org/abs/2207.12598", {
    "Eq. 6": E(
        r"\tilde\epsilon_\theta(z_\lambda, c) = (1 + w) \epsilon_\theta(z_\lambda, c) - w "
        r"\epsilon_\theta(z_\lambda)",
        r"Away from what the network says without a label. Their $z_\lambda$ is $x_t$, and c the "
        "label y.", "papers.classifier_free_guidance.guided",
        "the_guided_score_is_that_of_the_density_times_the_classifier_to_the_1_plus_w"),
    "Algorithm 1": E(["repeat", r"   $(x, c) \sim p(x, c)$",
        r"   $c = \varnothing$ with probability $p_{\mathrm{uncond}}$",
        r"   $\lambda \sim p(\lambda)$", r"   $\epsilon \sim \mathcal{N}(0, I)$",
        r"   $z_\lambda = \alpha_\lambda x + \sigma_\lambda \epsilon$",
        r"   take a gradient step on $\nabla_\theta \| \epsilon_\theta(z_\lambda, c) - \epsilon "
        r"\|^2$", "until converged"],
        r"Training of both networks in one; our t is drawn where their $\lambda$ is.",
        "papers.classifier_free_guidance.joint_loss papers.classifier_free_guidance.drop_labels",
        "the_loss_is_L_simple_with_each_images_own_label_or_none "
        "labels_are_dropped_one_by_one_with_the_probability_asked_for"),
    "Algorithm 2": E([r"$z_1 \sim \mathcal{N}(0, I)$", r"for $t = 1, \ldots, T$ do",
        r"   $\tilde\epsilon_t = (1 + w) \epsilon_\theta(z_t, c) - w \epsilon_\theta(z_t)$",
        r"   $\tilde x_t = (z_t - \sigma_{\lambda_t} \tilde\epsilon_t) / \alpha_{\lambda_t}$",
        r"   $z_{t+1} \sim \mathcal{N}(\tilde\mu_{\lambda_{t+1} \mid \lambda_t}(z_t, \tilde x_t), "
        r"(\tilde\sigma^2_{\lambda_{t+1} \mid \lambda_t})^{1-v} (\sigma^2_{\lambda_t \mid "
        r"\lambda_{t+1}})^v)$ if $t < T$, else $\tilde x_t$", "end for", "return $z_{T+1}$"],
        "Sampling with it. Their t runs towards the image; our sampler is Algorithm 2 of Ho et al.",
        "papers.classifier_free_guidance.guided",
        "samples_guided_by_w_0_have_the_mean_and_deviation_of_their_class"),
}, "Formulas compared with the paper's text; the number 6 by counting.")
EQUATIONS["Lugmayr et al. 2022"] = Paper(
    "RePaint: Inpainting using Denoising Diffusion Probabilistic Models",
    "https://arxiv.org/abs/2201.09865", {
    "Eq. 8": E(
        [r"x_{t-1}^{\mathrm{known}} \sim \mathcal{N}(\sqrt{\bar\alpha_t} x_0, (1 - \bar\alpha_t) "
        "I)",
        r"x_{t-1}^{\mathrm{unknown}} \sim \mathcal{N}(\mu_\theta(x_t, t), \Sigma_\theta(x_t, t))",
        r"x_{t-1} = m \odot x_{t-1}^{\mathrm{known}} + (1 - m) \odot x_{t-1}^{\mathrm{unknown}}"],
        "Known pixels are noised, hidden ones drawn. Here, as in the authors' code, the first "
        r"line has $\bar\alpha_{t-1}$.", "papers.repaint.inpaint",
        "the_model_sees_known_pixels_with_the_noise_of_the_time_it_is_told"),
    "Algorithm 1": E([r"$x_T \sim \mathcal{N}(0, I)$", r"for $t = T, \ldots, 1$ do",
        r"   for $u = 1, \ldots, U$ do",
        r"      $\epsilon \sim \mathcal{N}(0, I)$ if $t > 1$, else $\epsilon = 0$",
        r"      $x_{t-1}^{\mathrm{known}} = \sqrt{\bar\alpha_t} x_0 + (1 - \bar\alpha_t) \epsilon$",
        r"      $z \sim \mathcal{N}(0, I)$ if $t > 1$, else $z = 0$",
        r"      $x_{t-1}^{\mathrm{unknown}} = \frac{1}{\sqrt{\alpha_t}} \left(x_t - "
        r"\frac{\beta_t}{\sqrt{1 - \bar\alpha_t}} \epsilon_\theta(x_t, t)\right) + \sigma_t z$",
        r"      $x_{t-1} = m \odot x_{t-1}^{\mathrm{known}} + (1 - m) \odot "
        r"x_{t-1}^{\mathrm{unknown}}$", "      if $u < U$ and $t > 1$ then",
        r"         $x_t \sim \mathcal{N}(\sqrt{1 - \beta_{t-1}} x_{t-1}, \beta_{t-1} I)$",
        "      end if", "   end for", "end for", "return $x_0$"],
        r"Noise is added again, so that what is hidden can follow what is known; with $\beta_t$, "
        "as in sec. 4.2, and jumps of j steps. Line 5 has no root, but Eq. 8 has.",
        "papers.repaint.inpaint papers.repaint.schedule",
        "with_jumps_of_one_step_the_schedule_is_the_two_loops_of_algorithm_1 "
        "one_pass_misses_the_conditional_and_resampling_brings_it_nearer"),
})
EQUATIONS["Meng et al. 2021"] = Paper(
    "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations",
    "https://arxiv.org/abs/2108.01073", {
    "Algorithm 4": E([r"$x = \sqrt{\alpha(t_0)} x^{(g)} + \sqrt{1 - \alpha(t_0)} z$",
        r"for $n = N, \ldots, 1$ do", "   $t = t_0 n / N$",
        r"   $x = \frac{1}{\sqrt{1 - \beta(t) \Delta t}} (x + \beta(t) \Delta t \, s_\theta(x, "
        r"t)) + \sqrt{\beta(t) \Delta t} z$", "return $x$"],
        r"A drawing $x^{(g)}$ is noised until it might be a picture, and denoised. Their $\alpha$ "
        r"is our $\bar\alpha$.", "papers.sdedit.edit",
        "on_gaussian_data_an_edit_has_the_mean_and_variance_of_the_exact_recursion"),
}, "Compared with the authors' code; its number with others' lists; not the listing.")
EQUATIONS["Chung et al. 2023"] = Paper(
    "Diffusion Posterior Sampling for General Noisy Inverse Problems",
    "https://arxiv.org/abs/2209.14687", {
    "Eq. 10, 11": E(
        [r"\hat x_0 \simeq \frac{1}{\sqrt{\bar\alpha(t)}} (x_t + (1 - \bar\alpha(t)) "
        r"s_\theta(x_t, t))",
        r"p(y \mid x_t) \simeq p(y \mid \hat x_0), \quad \hat x_0 = \mathbb{E}[x_0 \mid x_t]"],
        "The mean of $x_0$ given $x_t$, by the network; and the one approximation, which takes it "
        "for $x_0$.", "papers.dps.guide",
        "on_correlated_pixels_the_gradient_is_that_of_the_closed_form"),
    "Eq. 16": E(
        r"\nabla_{x_t} \log p_t(x_t \mid y) \simeq s_\theta(x_t, t) - \rho \nabla_{x_t} \| y - "
        r"\mathcal{A}(\hat x_0) \|_2^2",
        "The score of the posterior: towards the data, and towards the measurement.",
        "papers.dps.sample", "a_sample_is_algorithm_1_written_out"),
    "Algorithm 1": E([r"$x_N \sim \mathcal{N}(0, I)$", r"for $i = N - 1, \ldots, 0$ do",
        r"   $\hat s = s_\theta(x_i, i)$",
        r"   $\hat x_0 = \frac{1}{\sqrt{\bar\alpha_i}} (x_i + (1 - \bar\alpha_i) \hat s)$",
        r"   $z \sim \mathcal{N}(0, I)$",
        r"   $x_{i-1}' = \frac{\sqrt{\alpha_i} (1 - \bar\alpha_{i-1})}{1 - \bar\alpha_i} x_i + "
        r"\frac{\sqrt{\bar\alpha_{i-1}} \beta_i}{1 - \bar\alpha_i} \hat x_0 + \tilde\sigma_i z$",
        r"   $x_{i-1} = x_{i-1}' - \zeta_i \nabla_{x_i} \| y - \mathcal{A}(\hat x_0) \|_2^2$",
        "end for", r"return $\hat x_0$"],
        "Algorithm 2 of Ho et al., and after each step one along the gradient.",
        "papers.dps.sample", "a_sample_is_algorithm_1_written_out"),
})
EQUATIONS["Song, Vahdat et al. 2023"] = Paper(
    "Pseudoinverse-Guided Diffusion Models for Inverse Problems",
    "https://openreview.net/forum?id=9_gsMA8MRKQ", {
    "Guidance": E([r"p_t(x_0 \mid x_t) \approx \mathcal{N}(\hat x_t, r_t^2 I), \quad r_t^2 = "
        r"\frac{\sigma_t^2}{\sigma_t^2 + 1}",
        r"\nabla_{x_t} \log p_t(y \mid x_t) \approx \left((y - H \hat x_t)^{\mathrm{T}} (r_t^2 H "
        r"H^{\mathrm{T}} + \sigma_y^2 I)^{-1} H \frac{\partial \hat x_t}{\partial "
        r"x_t}\right)^{\mathrm{T}}"],
        r"What $x_t$ leaves open is a Gaussian, as wide in all directions, and then so is y. Their "
        r"$\hat x_t$ is $\hat x_0$, H is A, $\sigma_y$ is s and $\sigma_t^2$ is $(1 - "
        r"\bar\alpha_t) / \bar\alpha_t$: $r_t^2 = 1 - \bar\alpha_t$, V in the code.",
        "papers.dps.conditioned",
        "a_scalar_covariance_is_that_of_independent_pixels_of_variance_1"),
}, "Compared with those who quote both; its equations have numbers, which were not verified.")
EQUATIONS["Boys et al. 2023"] = Paper(
    "Tweedie Moment Projected Diffusions for Inverse Problems",
    "https://arxiv.org/abs/2310.06721", {
    "Proposition 1": E(
        [r"m_{0 \mid t}(x_t) = \frac{x_t + v_t \nabla \log p_t(x_t)}{\sqrt{\alpha_t}}",
        r"C_{0 \mid t}(x_t) = \frac{v_t}{\sqrt{\alpha_t}} \nabla m_{0 \mid t}(x_t)"],
        r"Tweedie's formula for the mean of $x_0$ given $x_t$, and its slope, the covariance: "
        r"$V_t$ in the code, in the place of $r_t^2 I$. Their $\alpha_t$ is $\bar\alpha_t$, $v_t$ "
        r"is $1 - \bar\alpha_t$.", "papers.dps.conditioned",
        "on_gaussian_data_the_eps_is_that_of_the_posterior "
        "of_images_and_a_network_that_is_not_linear_the_covariance_is_its_slope"),
}, "Compared with the authors' code, the number with those who cite it.")
EQUATIONS["Saharia et al. 2021"] = Paper(
    "Image Super-Resolution via Iterative Refinement", "https://arxiv.org/abs/2104.07636", {
    "Eq. 6": E(
        r"\mathbb{E}_{(x, y)} \mathbb{E}_{\epsilon, \gamma} \| f_\theta(x, \sqrt{\gamma} y_0 + "
        r"\sqrt{1 - \gamma} \epsilon, \gamma) - \epsilon \|_p^p",
        r"$L_{\mathrm{simple}}$ of a network that also sees the small image, their x. Their $y_0$ "
        r"is $x_0$, and $\gamma$ is $\bar\alpha_t$.", "papers.super_resolution.conditional_loss",
        "every_image_is_trained_with_its_own_low_at_its_own_time"),
    "Algorithm 1": E(["repeat", r"   $(x, y_0) \sim p(x, y)$", r"   $\gamma \sim p(\gamma)$",
        r"   $\epsilon \sim \mathcal{N}(0, I)$",
        r"   take a gradient descent step on $\nabla_\theta \| f_\theta(x, \sqrt{\gamma} y_0 + "
        r"\sqrt{1 - \gamma} \epsilon, \gamma) - \epsilon \|_p^p$", "until converged"],
        "Training; p = 2 here.", "papers.super_resolution.conditional_loss",
        "what_is_trained_is_the_conditional_loss"),
    "Algorithm 2": E([r"$y_T \sim \mathcal{N}(0, I)$", r"for $t = T, \ldots, 1$ do",
        r"   $z \sim \mathcal{N}(0, I)$ if $t > 1$, else $z = 0$",
        r"   $y_{t-1} = \frac{1}{\sqrt{\alpha_t}} \left(y_t - \frac{1 - \alpha_t}{\sqrt{1 - "
        r"\gamma_t}} f_\theta(x, y_t, \gamma_t)\right) + \sqrt{1 - \alpha_t} z$", "end for",
        "return $y_0$"], "Sampling: that of Ho et al., of images with this small one.",
        "papers.super_resolution.sample",
        "with_a_perfect_network_the_samples_have_the_exact_posterior "
        "k_samples_of_each_low_in_order_from_one_generator"),
}, "Formulas compared with the paper's text; the number 6 by counting.")
EQUATIONS["Rombach et al. 2022"] = Paper(
    "High-Resolution Image Synthesis with Latent Diffusion Models",
    "https://arxiv.org/abs/2112.10752", {
    "Eq. 2": E(
        r"L_{LDM} = \mathbb{E}_{\mathcal{E}(x), \epsilon \sim \mathcal{N}(0, 1), t}\left[\| "
        r"\epsilon - \epsilon_\theta(z_t, t) \|_2^2\right]",
        r"$L_{\mathrm{simple}}$ of what the encoder $\mathcal{E}$ makes of images.",
        "papers.latent_diffusion.LatentDiffusion.loss",
        "the_loss_in_the_latents_is_l_simple_of_the_scaled_latents"),
    "Eq. 3": E(r"L_{LDM} = \mathbb{E}_{\mathcal{E}(x), y, \epsilon \sim \mathcal{N}(0, 1), "
        r"t}\left[\| \epsilon - \epsilon_\theta(z_t, t, \tau_\theta(y)) \|_2^2\right]", "The same "
        r"of a network that is told y, a caption here, by a transformer $\tau_\theta$; both learn.",
        "papers.stable_diffusion.loss",
        "the_loss_is_that_of_the_latents_with_each_ones_own_caption_or_none"),
})
EQUATIONS["Song, Dhariwal et al. 2023"] = Paper(
    "Consistency Models", "https://arxiv.org/abs/2303.01469", {
    "Eq. 5": E(r"f_\theta(x, t) = c_{\mathrm{skip}}(t) x + c_{\mathrm{out}}(t) F_\theta(x, t)",
        "Where t is least, $c_{\\mathrm{skip}}$ is 1 and $c_{\\mathrm{out}}$ is 0: there f says x. "
        r"Their x is $x_t / \sqrt{\bar\alpha_t}$, and their t our $\sqrt{1 / \bar\alpha_t - 1}$.",
        "papers.consistency.consistent",
        "at_time_0_it_is_the_identity_whatever_the_network the_network_says_v"),
    "Eq. 6": E(
        [r"\hat x_{t_n}^\phi = x_{t_{n+1}} + (t_n - t_{n+1}) \Phi(x_{t_{n+1}}, t_{n+1}; \phi)",
        r"\Phi(x, t; \phi) = -t s_\phi(x, t)"],
        "A neighbour on the path, by one step along the score of a trained network; the second "
        "line is Euler's method, with which it is a jump of DDIM.", "papers.consistency.neighbours",
        "the_jump_of_a_perfect_network_is_the_mean_of_the_neighbours_without_one"),
    "Eq. 7": E(r"\mathcal{L}_{CD}^N(\theta, \theta^-; \phi) = \mathbb{E}[\lambda(t_n) "
        r"d(f_\theta(x_{t_{n+1}}, t_{n+1}), f_{\theta^-}(\hat x_{t_n}^\phi, t_n))]",
        r"Distillation: of two neighbours f says the same. Here $\lambda = 1$, d is the squared "
        r"distance, and $\theta^-$ is $\theta$, but held fixed.", "papers.consistency.loss",
        "on_gaussian_data_the_loss_is_0_at_the_ends_of_the_paths_and_nowhere_else "
        "the_loss_is_a_mean_square_and_moves_only_the_noisier_end"),
    "Eq. 10": E([r"\mathcal{L}_{CT}^N(\theta, \theta^-)",
        r"\quad = \mathbb{E}[\lambda(t_n) "
        r"d(f_\theta(x + t_{n+1} z, t_{n+1}), f_{\theta^-}(x + t_n z, t_n))]"],
        "Training alone: the neighbour is the same image with less of the same noise. By Theorem "
        "2 it is Eq. 7 but for what vanishes faster than the distance of the times.",
        "papers.consistency.loss papers.consistency.neighbours papers.consistency.learned_alone",
        "neighbours_have_times_of_their_own "
        "the_loss_is_a_mean_square_and_moves_only_the_noisier_end "
        "alone_it_learns_with_one_time_the_mean_of_the_data_and_with_more_the_mean_of_f "
        "on_gaussian_data_both_learn_a_line_with_the_correlations_as_slope"),
    "Theorem 1": E(r"\sup_{n, x} \| f_\theta(x, t_n) - f(x, t_n; \phi) \|_2 = O((\Delta t)^p)",
        "If the loss of Eq. 7 is 0, f misses the ends of the paths by what the steps that taught "
        r"it miss: p is their order, 1 of Euler's, and $\Delta t$ the longest.",
        "papers.consistency.line",
        "the_line_has_the_ends_of_the_ode_to_which_both_come_nearer_as_n_grows"),
    "Algorithm 1": E([r"$x = f_\theta(\hat x_T, T)$", r"for $n = 1, \ldots, N - 1$ do",
        r"   $z \sim \mathcal{N}(0, I)$",
        r"   $\hat x_{\tau_n} = x + \sqrt{\tau_n^2 - \epsilon^2} z$",
        r"   $x = f_\theta(\hat x_{\tau_n}, \tau_n)$", "end for", "return $x$"],
        r"One evaluation, or more: the end gets noise, and has an end again. Here $\epsilon = 0$.",
        "papers.consistency.sample",
        "sampling_goes_to_the_end_and_adds_noise_of_the_next_time "
        "samples_of_gaussian_data_have_its_mean_and_spread_with_any_number_of_steps"),
    "Algorithms 2, 3": E(["repeat", r"   $x \sim \mathcal{D}$, $n \sim \mathrm{Uniform}(\{1, "
        r"\ldots, N - 1\})$, $x_{t_{n+1}} \sim \mathcal{N}(x, t_{n+1}^2 I)$",
        r"   $\hat x_{t_n}^\phi = x_{t_{n+1}} + (t_n - t_{n+1}) \Phi(x_{t_{n+1}}, t_{n+1}; \phi)$; "
        r"of 3 it is $x + t_n z$, where $x_{t_{n+1}} = x + t_{n+1} z$",
        r"   $\mathcal{L}(\theta, \theta^-; \phi) = \lambda(t_n) d(f_\theta(x_{t_{n+1}}, t_{n+1}), "
        r"f_{\theta^-}(\hat x_{t_n}^\phi, t_n))$",
        r"   $\theta = \theta - \eta \nabla_\theta \mathcal{L}(\theta, \theta^-; \phi)$",
        r"   $\theta^- = \mathrm{stopgrad}(\mu \theta^- + (1 - \mu) \theta)$", "until convergence"],
        r"Training, with a teacher and without. N grows, in the paper in 3; here $\mu = 0$.",
        "papers.consistency.objective",
        "a_step_of_training_takes_neighbours_from_a_grid_that_grows"),
})
EQUATIONS["Nichol et al. 2021"] = Paper(
    "GLIDE: Towards Photorealistic Image Generation and Editing with Text-Guided Diffusion Models",
    "https://arxiv.org/abs/2112.10741", {
    "Sec. 2.3": E(
        r"\hat\epsilon_\theta(x_t \mid c) = \epsilon_\theta(x_t \mid \varnothing) + s \cdot "
        r"(\epsilon_\theta(x_t \mid c) - \epsilon_\theta(x_t \mid \varnothing))",
        "Away from what the network says without a caption c. Their s is the 1 + w of Ho & "
        "Salimans.", "papers.text_to_image.draw",
        "guidance_multiplies_the_density_by_that_of_the_caption_to_the_s"),
    "Sec. 2.4": E(
        r"\hat\mu_\theta(x_t \mid c) = \mu_\theta(x_t \mid c) + s \cdot \Sigma_\theta(x_t \mid c) "
        r"\nabla_{x_t}(f(x_t) \cdot g(c))",
        r"Classifier guidance by a CLIP that has seen noise. Here $\mu_\theta$ and $\Sigma_\theta$ "
        "are of a network that is told no caption.", "papers.clip.Clip.ask",
        "its_gradient_is_that_of_the_exact_classifier_and_with_a_function_of_x_another "
        "vectors_have_unit_length_and_see_no_other_of_the_batch_and_all_weights_learn "
        "papers.classifier_guidance."
        "a_step_is_p_sample_with_its_mean_shifted_by_s_sigma_squared_times_the_gradient"),
})
EQUATIONS["Poole et al. 2022"] = Paper(
    "DreamFusion: Text-to-3D using 2D Diffusion", "https://arxiv.org/abs/2209.14988", {
    "Eq. 1, 2": E(
        [r"L_{\mathrm{Diff}}(\phi, x) = \mathbb{E}_{t, \epsilon}\left[w(t) \| "
        r"\epsilon_\phi(\alpha_t x + \sigma_t \epsilon; t) - \epsilon \|_2^2\right]",
        r"\nabla_\theta L_{\mathrm{Diff}}(\phi, x = g(\theta)) = \mathbb{E}_{t, "
        r"\epsilon}\left[w(t) (\hat\epsilon_\phi(z_t; y, t) - \epsilon) \frac{\partial "
        r"\hat\epsilon_\phi(z_t; y, t)}{\partial z_t} \frac{\partial x}{\partial \theta}\right]"],
        "What trained the network; its gradient by a picture goes through the network, at a cost. "
        r"Their $\alpha_t$ is $\sqrt{\bar\alpha_t}$ here, $\sigma_t$ is $\sqrt{1 - \bar\alpha_t}$.",
        "papers.score_distillation.direction", "no_gradient_goes_through_the_network"),
    "Eq. 3": E(
        r"\nabla_\theta L_{\mathrm{SDS}}(\phi, x = g(\theta)) = \mathbb{E}_{t, "
        r"\epsilon}\left[w(t) (\hat\epsilon_\phi(z_t; y, t) - \epsilon) \frac{\partial "
        r"x}{\partial \theta}\right]", "Left out, what remains says how a picture should change.",
        "papers.score_distillation.direction",
        "on_gaussian_data_the_mean_of_eq_3_is_the_closed_form"),
    "Eq. 4": E(
        r"\nabla_\theta L_{\mathrm{SDS}}(\phi, x = g(\theta)) = \nabla_\theta "
        r"\mathbb{E}_t\left[\frac{\sigma_t}{\alpha_t} w(t) D_{\mathrm{KL}}(q(z_t \mid g(\theta); "
        r"y, t) \,\|\, p_\phi(z_t; y, t))\right]",
        "It is the gradient of a function: descent ends in its minima, and draws nothing.",
        "papers.score_distillation.loss",
        "eq_3_is_the_gradient_of_eq_4_on_a_mixture eq_4_of_one_gaussian_is_its_kl"),
}, "Order and numbers compared with the paper's text, formulas with those who quote them.")
EQUATIONS["van den Oord et al. 2018"] = Paper(
    "Representation Learning with Contrastive Predictive Coding",
    "https://arxiv.org/abs/1807.03748", {
    "Eq. 4": E([r"L_N = -\mathbb{E}_X\left[\log \frac{f_k(x_{t+k}, c_t)}{\sum_{x_j \in X} f_k(x_j, "
        r"c_t)}\right]", r"f_k(x_{t+k}, c_t) \propto \frac{p(x_{t+k} \mid c_t)}{p(x_{t+k})}"],
        "Which x of the batch X belongs to c? $f_k$ is exp(f . g) here, of a picture and a "
        "caption, and each of the two is asked for. Eq. 2 is the best answer.",
        "papers.clip.info_nce", "the_loss_is_the_mean_of_both_questions_written_out "
        "the_optimum_on_a_table_is_the_log_ratio_but_for_one_constant"),
}, "Compared with those who quote both equations with their numbers.")
EQUATIONS["Chen et al. 2022"] = Paper(
    "Analog Bits: Generating Discrete Data using Diffusion Models with Self-Conditioning",
    "https://arxiv.org/abs/2208.04202", {
    "Algorithm 1": E(["repeat", "   $x_0$ is data, written as bits of $-1$ and $1$",
        r"   $t \sim \mathrm{Uniform}(0, 1)$, $\epsilon \sim \mathcal{N}(0, I)$",
        r"   $x_t = \sqrt{\gamma(t)} x_0 + \sqrt{1 - \gamma(t)} \epsilon$", r"   $\tilde x_0 = 0$; "
        r"half of the time $\tilde x_0 = f(x_t, 0, t)$, with no gradient through it",
        r"   take a gradient descent step on $\nabla \| f(x_t, \tilde x_0, t) - x_0 \|^2$",
        "until converged"], "Training, on bits as if they were pixels, of a network that sees its "
        r"own last estimate. $\gamma(t)$ is $\bar\alpha_t$ here.", "papers.bits.bit_loss",
        "training_shows_half_of_the_batch_an_estimate_with_no_gradient_through_it"),
    "Algorithm 2": E([r"$x_1 \sim \mathcal{N}(0, I)$, $\tilde x_0 = 0$", "for each step, from $t$ "
        "to $s < t$ do", r"   $\tilde x_0 = f(x_t, \tilde x_0, t)$", "   $x_s$ is what DDIM, or "
        r"DDPM, makes of $x_t$ and $\tilde x_0$", "end for", "return the bits: whether $x_0 > 0$"],
        "Sampling, here by DDIM, which ends in the signs of what was drawn.",
        "papers.bits.generate", "generate_walks_by_ddim_and_tells_f_its_last_estimate"),
}, "Compared with the paper's text, which has the listings as pictures: they were not seen.")
EQUATIONS["Sahoo et al. 2024"] = Paper(
    "Simple and Effective Masked Diffusion Language Models", "https://arxiv.org/abs/2406.07524", {
    "Sec. 3.2": E([r"$p_\theta(z_s \mid z_t) = \mathrm{Cat}(z_s; z_t)$ if $z_t \neq m$, else",
        r"\quad \mathrm{Cat}\left(z_s; \frac{(1 - \alpha_s) m + (\alpha_s - \alpha_t) "
        r"x_\theta(z_t, t)}{1 - \alpha_t}\right)"],
        r"A step back, s < t. What is hidden, the mask m, is shown with a probability of its own, "
        r"and what is shown stays. $\alpha_t$ is the share of words that are shown.",
        "papers.bits.reverse", "a_step_is_bayes_with_the_absorbing_matrices_of_austin_et_al"),
    "Sec. 3.5": E(
        r"\mathcal{L}_{\mathrm{NELBO}}^\infty = \mathbb{E}_q \int_{t=0}^{t=1} \frac{\alpha_t'}{1 - "
        r"\alpha_t} \sum_\ell \, \log \langle x_\theta^\ell(z_t^{1:L}, t), x^\ell \rangle \, dt",
        r"The bound of endlessly many steps: hidden words are guessed, with a weight. With "
        r"$\alpha_t = 1 - t$ it is $-1 / t$.", "papers.bits.mask_loss",
        "the_bound_of_the_ideal_words_is_the_entropy_and_that_of_chance_three_words "
        "the_bound_is_of_hidden_words_alone_and_its_times_are_spread"),
})
EQUATIONS["Okhotin et al. 2023"] = Paper(
    "Star-Shaped Denoising Diffusion Probabilistic Models", "https://arxiv.org/abs/2302.05259", {
    "Eq. 11": E(r"L^{ss}(\theta) = \mathbb{E}_{q^{ss}}\left[\log p_\theta(x_0 \mid x_{1:T}) - "
        r"\sum_{t=2}^T D_{\mathrm{KL}}(q^{ss}(x_{t-1} \mid x_0) \,\|\, p_\theta^{ss}(x_{t-1} \mid "
        r"x_{t:T}))\right]", "The bound: each $x_t$ is drawn from $x_0$ alone, so the way back "
        "has to ask all that come after.", "papers.star_shaped.Star.x_theta",
        "x_theta_is_where_the_divergence_of_eq_11_is_least"),
    "Theorem 1": E([r"q^{ss}(x_t \mid x_0) = h_t(x_t) \exp\left(\eta_t(x_0)^T \mathcal{T}(x_t) - "
        r"\Omega_t(x_0)\right)", r"\eta_t(x_0) = A_t f(x_0) + b_t", r"G_t = \mathcal{G}_t(x_{t:T}) "
        r"= \sum_{s=t}^T A_s^T \mathcal{T}(x_s)", r"q^{ss}(x_{t-1} \mid x_{t:T}) = q^{ss}(x_{t-1} "
        r"\mid G_t)"], r"Eq. 13 to 16: of an exponential family one sum has all that $x_t, \ldots, "
        "x_T$ know of $x_0$. $A_t$ is a number $a_t$ here.", "papers.star_shaped.Star.posterior",
        "of_all_from_t_on_the_tail_statistic_says_what_bayes_rule_does "
        "each_noise_is_an_exponential_family_with_f_of_x_0_times_a"),
    "Eq. 17, 18": E(r"q(x_t \mid x_0) = \mathrm{Beta}(x_t; \alpha_t, \beta_t), \quad \alpha_t = 1 "
        r"+ \nu_t x_0, \quad \beta_t = 1 + \nu_t (1 - x_0)", "Noise for data in [0, 1]: "
        r"$\mathcal{T}(x_t) = \log \frac{x_t}{1 - x_t}$, and $\nu_t$ is $a_t$.",
        "papers.star_shaped.Beta", "each_noise_is_an_exponential_family_with_f_of_x_0_times_a"),
    "Eq. 19, 20": E([r"p_\theta^{ss}(x_{t-1} \mid x_{t:T}) \approx \int q^{ss}(x_{t-1} \mid x_0) "
        r"q^{ss}(x_0 \mid x_{t:T}) \, d x_0", r"p_\theta^{ss}(x_{t-1} \mid x_{t:T}) = "
        r"q^{ss}(x_{t-1} \mid x_0), \quad x_0 = x_\theta(\mathcal{G}_t(x_{t:T}), t)"],
        "The right step back, and the model's, which takes a point in the place of a distribution "
        "of $x_0$.", "papers.star_shaped.Star.walk",
        "nothing_is_lost_where_x_0_is_drawn_and_much_where_it_is_a_point_and_the_tail_is_not_seen"),
    "Algorithm 2": E([r"$x_T \sim q^{ss}(x_T)$", r"$G_T = A_T^T \mathcal{T}(x_T)$",
        r"for $t = T, \ldots, 2$ do", r"   $\tilde x_0 = x_\theta(G_t, t)$", r"   $x_{t-1} \sim "
        r"q^{ss}(x_{t-1} \mid x_0)$ at $x_0 = \tilde x_0$", "   $G_{t-1} = G_t + A_{t-1}^T "
        r"\mathcal{T}(x_{t-1})$", "end for", r"$x_0 \sim p_\theta^{ss}(x_0 \mid G_1)$"],
        "Sampling. $x_T$ is drawn here from the mean of the data, of which it knows next to "
        "nothing.", "papers.star_shaped.Star.walk",
        "the_way_back_of_gaussians_is_algorithm_2_from_the_same_noise"),
    "Eq. 21": E(r"G_t = \sum_{s=t}^T A_s^T \mathcal{T}(x_s) = G_{t+1} + A_t^T \mathcal{T}(x_t)",
        "The sum is a Markov chain, and costs one addition a step.", "papers.star_shaped.Star.walk",
        "a_walk_adds_up_what_it_draws_and_asks_the_tail_or_x_t_alone"),
    "Eq. 22": E([r"q^{ss}(x_t \mid x_0) = \mathcal{N}(x_t; \sqrt{\bar\alpha_t^{ss}} x_0, 1 - "
        r"\bar\alpha_t^{ss})", r"\mathcal{G}_t(x_{t:T}) = \frac{1 - "
        r"\bar\alpha_t^{DDPM}}{\sqrt{\bar\alpha_t^{DDPM}}} \sum_{s=t}^T "
        r"\frac{\sqrt{\bar\alpha_s^{ss}} x_s}{1 - \bar\alpha_s^{ss}}",
        r"\frac{\bar\alpha_t^{ss}}{1 - \bar\alpha_t^{ss}} = \frac{\bar\alpha_t^{DDPM}}{1 - "
        r"\bar\alpha_t^{DDPM}} - \frac{\bar\alpha_{t+1}^{DDPM}}{1 - \bar\alpha_{t+1}^{DDPM}}"],
        "With Eq. 23 and 24, Theorem 2: of Gaussians the sum is DDPM's chain, where "
        r"$\bar\alpha_t^{DDPM}$ is our $\bar\alpha_t$.", "papers.star_shaped.Gaussian",
        "the_tail_statistics_of_gaussians_are_the_chain_of_ddpm "
        "each_x_t_tells_what_eq_24_gives_it_and_all_from_t_on_as_much_as_ddpms_x_t"),
})
