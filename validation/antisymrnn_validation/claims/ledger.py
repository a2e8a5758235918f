"""The ledger: what the paper says, one executable check and one verdict for each sentence, in the paper's order.

Sentences marked "review version" were read in the version of the paper under review; the printed one may say them in
other words. Those marked "(derived)" are not in the paper but were derived from it.

A verdict is computed from the numbers of its check. ``holds`` rests on exact or ball arithmetic, or on random instances
within a tolerance derived from the arithmetic; a refutation rests on an exact fraction, a count, or a certified ball.
Chosen, not derived, are: the 0.05 within which an observed order is the first (``euler-first-order``,
``exponential-of-slow-jacobian``); the factor 2 of ``computed-eigenvalues`` and the backward error of the eigensolver
(``rounding_of_eigenvalues``, in three claims), which are measured; five standard deviations and the width of the
spectrum's edge (``initial-variances``), which true samples leave with a small probability; and the numbers that stand
for words such as slow, constant, slightly, or close to zero.
"""

from __future__ import annotations

from flint import ctx

from antisymrnn_validation.claims import antisymmetry, counting, euler, figure_one, gradients, ode
from antisymrnn_validation.claims.evidence import PRECISION, Claim, Judgement, Outcome, Verdict

__all__ = ["CLAIMS", "Claim", "Judgement", "Outcome", "Verdict", "judge"]

HOLDS, CONDITIONAL, REFUTED = Verdict.HOLDS, Verdict.CONDITIONAL, Verdict.REFUTED

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "test-equation",
        "the test equation",
        "z' = λ z has the solution z(0) e^(λt); two solutions are |Δ(0)| e^(Re λ t) apart, so that Re λ > 0 explodes, "
        "Re λ < 0 forgets and Re λ = 0 preserves.",
        "",
        HOLDS,
        ode.scalar_test_equation,
        proof="7",
    ),
    Claim(
        "euler-first-order",
        "equations (1), (2) and (3)",
        "Forward Euler converges to the solution of h' = f(h) at first order in ε for Lipschitz f.",
        "",
        HOLDS,
        ode.euler_is_first_order,
        proof="7",
    ),
    Claim(
        "cells-as-written",
        "equations (3), (10), (12) and (13)",
        "The specification computes the recurrence with feedback, both cells and their diffusion as they are written.",
        "",
        HOLDS,
        euler.cells_as_written,
        proof="2",
    ),
    Claim(
        "network-inherits-stability",
        "section 3.1, review version",
        "A recurrent network made by discretising an ODE inherits the ODE's desirable properties.",
        "The ODE of Figure 1(g) keeps its energy, its forward Euler network raises it at every step. Inherited in the "
        "limit ε → 0 at a fixed time.",
        REFUTED,
        euler.network_inherits_stability,
        proof="7.2",
    ),
    Claim(
        "frozen-eigenvalues-suffice",
        "Definition 1, Proposition 1, equation (4)",
        "A solution is stable if Re λ_i(J(t)) ≤ 0 at all times.",
        "True if the symmetric part of J is negative semidefinite at all times and at all states near the solution: "
        "then neighbours come no further apart. If it is so along the solution alone, ‖A(t)‖ ≤ 1.",
        REFUTED,
        ode.frozen_eigenvalues_suffice,
        proof="10.7",
    ),
    Claim(
        "constant-jacobian-is-stable",
        "Proposition 1, equation (4), for constant J",
        "A linear ODE with constant J is stable if Re λ_i(J) ≤ 0.",
        "The eigenvalues with Re λ = 0 are not defective, as those of D M for D > 0 and antisymmetric M are not.",
        CONDITIONAL,
        ode.constant_jacobian_is_stable,
        proof="10.2",
    ),
    Claim(
        "ode-is-stable",
        "section 3.2, Definition 1 with equation (8)",
        "The ODE (8) is stable: a small change of h(0) stays small at all times.",
        "For n = 2, without input, it keeps its energy, so that orbits stay close to orbits; along them neighbours "
        "drift apart.",
        REFUTED,
        ode.ode_is_stable,
        proof="10.12",
    ),
    Claim(
        "sensitivity-equation",
        "equations (6) and (7)",
        "A(t) = ∂h(t)/∂h(0) solves A' = J(t) A, A(0) = I.",
        "",
        HOLDS,
        ode.sensitivity_equation,
        proof="10.11",
    ),
    Claim(
        "exponential-of-slow-jacobian",
        "below equation (7)",
        "A(t) = e^(Jt) if J does not vary or varies slowly.",
        "‖J‖ t is bounded, and the change of J over [0, t], times t, is small: the error is proportional to the rate "
        "of change.",
        CONDITIONAL,
        ode.exponential_of_slow_jacobian,
        proof="10.11",
    ),
    Claim(
        "jacobian-varies-slowly",
        "section 3.2, below equation (9), review version",
        "The diagonal factor of J is bounded in [0, 1], so that J(t) changes smoothly over time.",
        "J changes as fast as the input does.",
        REFUTED,
        ode.jacobian_varies_slowly,
        proof="10.11",
    ),
    Claim(
        "critical-criterion-keeps-gradients",
        "equations (5), (6) and (7)",
        "Where Re λ_i(J(t)) ≈ 0 the magnitude of A(t) is about constant: no exploding or vanishing gradient.",
        "det A(t) = 1: the product of the singular values is kept, each of them is not.",
        REFUTED,
        ode.critical_criterion_keeps_gradients,
        proof="10.7",
    ),
    Claim(
        "antisymmetry-is-exact",
        "section 3.2 (derived)",
        "W − Wᵀ computed in floating point is antisymmetric to the last bit.",
        "",
        HOLDS,
        antisymmetry.antisymmetry_is_exact,
        proof="10.1",
    ),
    Claim(
        "antisymmetric-eigenvalues",
        "section 3.2",
        "The eigenvalues of an antisymmetric matrix are imaginary.",
        "",
        HOLDS,
        antisymmetry.antisymmetric_eigenvalues,
        proof="10.1",
    ),
    Claim(
        "computed-eigenvalues",
        "section 3.2 (derived)",
        "The eigenvalues of an antisymmetric matrix computed in floating point have |Re λ| ≤ 2 n u ‖M‖₂.",
        "",
        HOLDS,
        antisymmetry.computed_eigenvalues,
        proof="10.1",
    ),
    Claim(
        "jacobian-of-the-ode",
        "equations (8) and (9)",
        "The Jacobian of the right-hand side of (8) is diag(tanh'(…)) (W − Wᵀ).",
        "",
        HOLDS,
        antisymmetry.jacobian_of_the_ode,
        proof="8",
    ),
    Claim(
        "eigenvalues-of-the-jacobian",
        "equations (5) and (9)",
        "All eigenvalues of that Jacobian are imaginary: it meets the critical criterion.",
        "",
        HOLDS,
        antisymmetry.eigenvalues_of_nine,
        proof="10.2",
    ),
    Claim(
        "inputs-do-not-matter",
        "section 3.2, below equation (9), review version",
        "Input and bias affect only the bounded diagonal factor: their effect on stability is insignificant.",
        "With the same weights and start, inputs alone decide whether the gradient explodes.",
        REFUTED,
        euler.inputs_do_not_matter,
        proof="10.7",
    ),
    Claim(
        "energy-of-the-ode",
        "equation (8) (derived)",
        "For constant input the ODE (8) keeps E = Σ log cosh(M h + u); with diffusion dE/dt = −γ ‖tanh(M h + u)‖².",
        "",
        HOLDS,
        ode.energy_of_the_ode,
        proof="7.1",
    ),
    Claim(
        "degrees-of-freedom",
        "equation (10)",
        "W − Wᵀ has n(n−1)/2 degrees of freedom, and a strictly upper triangular W has them all.",
        "",
        HOLDS,
        counting.degrees_of_freedom,
        proof="9",
    ),
    Claim(
        "energy-under-euler",
        "equation (10) (derived)",
        "For constant input and γ = 0 forward Euler never lowers E, whatever ε.",
        "",
        HOLDS,
        euler.euler_never_lowers_energy,
        proof="7.2",
    ),
    Claim(
        "frozen-euler-suffices",
        "Proposition 2, equation (11)",
        "The recurrence is stable if |1 + ε λ_i(J_t)| ≤ 1 at every step.",
        "True if ‖I + ε J‖₂ ≤ 1 at every step and at all states near the solution; or if J is the same at all of them "
        "and no λ with |1 + ελ| = 1 is defective.",
        REFUTED,
        euler.frozen_euler_suffices,
        proof="10.7",
    ),
    Claim(
        "imaginary-eigenvalues-are-unstable",
        "Proposition 2, equation (11), at γ = 0",
        "For imaginary eigenvalues |1 + ελ| is always greater than 1, so that (10) is unstable.",
        "J is constant and not zero: then some |1 + ελ| > 1, and (I + εJ)^t grows. J = 0 for σ_w = 0, which is in the "
        "paper's grid, and for n = 1; and where inputs saturate the units fast enough, as a_t = (t, t), (10) is "
        "stable, though (11) fails at every step.",
        CONDITIONAL,
        euler.imaginary_eigenvalues_are_unstable,
        proof="10.5",
    ),
    Claim(
        "critical-diffusion",
        "equations (11) and (12) (derived)",
        "Forward Euler is stable at d(−γ ± iω) if and only if d ≤ 2γ/(ε(γ² + ω²)).",
        "",
        HOLDS,
        euler.critical_diffusion_formula,
        proof="8",
    ),
    Claim(
        "real-parts-with-diffusion",
        "equation (12)",
        "With diffusion the eigenvalues of the Jacobian have slightly negative real parts: −γ max d ≤ Re λ ≤ −γ min d.",
        "",
        HOLDS,
        antisymmetry.real_parts_with_diffusion,
        proof="10.2",
    ),
    Claim(
        "diffusion-makes-euler-stable",
        "section 3.3, equations (11) and (12)",
        "Subtracting a small γ from the diagonal repairs the stability of forward Euler.",
        "ε‖W − Wᵀ‖₂ ≤ 1, and γ between the critical γ of ω = ‖W − Wᵀ‖₂, d = 1, and ω² over it: then (11) holds for "
        "every D.",
        CONDITIONAL,
        euler.diffusion_makes_euler_stable,
        proof="8",
    ),
    Claim(
        "w-diff-is-euler-stable",
        "section 4, Figure 1(h), equation (11)",
        "γ = 0.15 makes the recurrence of Figure 1(h) meet Proposition 2.",
        "At the origin it takes γ ≥ 0.20204103; tanh bounds the state, not (11).",
        REFUTED,
        euler.w_diff_is_euler_stable,
        proof="10.5",
    ),
    Claim(
        "gated-jacobian-form",
        "equation (13)",
        "The Jacobian of the gated cell is a diagonal matrix times the antisymmetric one, ignoring diffusion.",
        "",
        HOLDS,
        euler.gated_jacobian_form,
        proof="8",
    ),
    Claim(
        "gated-criterion-remains",
        "equations (5) and (13)",
        "With the gate the real parts of the eigenvalues are still close to zero: the critical criterion remains "
        "satisfied.",
        "True where every entry of the diagonal factor has the same sign; the gate can make signs differ.",
        REFUTED,
        euler.gated_criterion_remains,
        proof="10.6",
    ),
    Claim(
        "gated-sign-condition",
        "equation (13) (derived)",
        "An entry of the gated diagonal factor is negative if and only if 1 − t² + (1 − z) t < 0, t = tanh a.",
        "",
        HOLDS,
        euler.gated_sign_condition,
        proof="8",
    ),
    Claim(
        "gate-is-cheap",
        "section 3.4, review version",
        "Sharing the matrix, the gate increases the number of parameters only slightly instead of doubling it.",
        "m is small against n/2, as on MNIST and pixel CIFAR-10; slightly means less than a tenth.",
        CONDITIONAL,
        counting.gate_is_cheap,
        proof="9",
    ),
    Claim(
        "discrete-jacobian",
        "equations (7), (10) and (13) (derived)",
        "∂h_T/∂h_0 is the product of the I + ε D_t M.",
        "",
        HOLDS,
        gradients.discrete_jacobian,
        proof="8",
    ),
    Claim(
        "singular-values-are-bounded",
        "equation (10) (derived)",
        "Π σ_min(I + ε D_t M) ≤ σ_i(∂h_T/∂h_0) ≤ Π σ_max(I + ε D_t M), and σ_max ≤ 1 + ε‖M‖₂.",
        "",
        HOLDS,
        gradients.singular_values_are_bounded,
        proof="8",
    ),
    Claim(
        "geometric-mean",
        "equation (10) (derived)",
        "The geometric mean of |eigenvalues| of ∂h_T/∂h_0 is exp((1/n) Σ log|det(I + ε D_t M)|), at least 1 at γ = 0.",
        "",
        HOLDS,
        gradients.geometric_mean_is_at_least_one,
        proof="10.4",
    ),
    Claim(
        "gradient-norm-is-constant",
        "equations (5), (7) and (10)",
        "In the recurrence (10) the norm of ∂h_T/∂h_0 is about constant in T.",
        "The bounds Π σ(I + ε D_t M) are near 1, as at a total time εT of 0.5. Later it may grow; "
        "measured with n = 32, T = 200, ε = 0.1, σ_w = 1 and no input, ∂h_T/∂h_0 is better conditioned than with "
        "unconstrained W in every draw.",
        CONDITIONAL,
        gradients.gradient_norm_is_constant,
        proof="10.8",
    ),
    Claim(
        "diffusion-decay",
        "equation (12) (derived)",
        "Diffusion shrinks the geometric mean of |eigenvalues| of ∂h_T/∂h_0 like exp(−εγT mean tanh').",
        "ε‖D_t M‖₂ is small: the logarithm is off by at most Σ ρ²/(2(1 − ρ)), ρ = ε‖D_t M‖₂.",
        CONDITIONAL,
        gradients.diffusion_decay,
        proof="10.4",
    ),
    Claim(
        "gradients-of-the-shared-matrix",
        "equations (12) and (13) (derived)",
        "∂L/∂W = G − Gᵀ and ∂L/∂γ = −tr G with G = ∂L/∂M, and Mᵀv = −Mv − 2γv.",
        "",
        HOLDS,
        gradients.gradients_of_shared_matrix,
        proof="3",
    ),
    Claim(
        "figure-eigenvalues",
        "section 4, Figure 1(e) to (h)",
        "The four matrices have the eigenvalues 2, 2; −2, −2; ±2i; −0.15 ± 2i, and |1 + ελ| is 1.2, 0.8, 1.019804 and "
        "1.005099.",
        "",
        HOLDS,
        figure_one.eigenvalues_of_the_figure,
        proof="10.13",
    ),
    Claim(
        "figure-end-states",
        "section 4, Figure 1",
        "h_50 of five recurrences from the three starts, to six decimals.",
        "",
        HOLDS,
        figure_one.end_states_of_the_figure,
        proof="7",
    ),
    Claim(
        "figure-energies",
        "section 4, Figure 1(g) (derived)",
        "E rises from 0.43378 to 1.04374, 0.86756 to 1.52836 and 1.28922 to 1.88031 under W₀ in 50 steps.",
        "",
        HOLDS,
        figure_one.energies_of_the_figure,
        proof="7.2",
    ),
    Claim(
        "identity-decays-algebraically",
        "section 4, Figure 1(b)",
        "The vanilla recurrence with the identity tends to the origin, like √(3/(2t)): 0.16 is left at T = 50.",
        "",
        HOLDS,
        figure_one.identity_decays_algebraically,
        proof="10.9",
    ),
    Claim(
        "orthogonal-vanilla-collapses",
        "section 4, Figure 1(c) and (d), review version",
        "With an orthogonal W all states of the vanilla recurrence converge to the origin.",
        "",
        HOLDS,
        figure_one.orthogonal_vanilla_collapses,
        proof="10.10",
    ),
    Claim(
        "orthogonal-gradient-vanishes",
        "section 4, Figure 1(d), review version",
        "With an orthogonal W the vanilla recurrence still suffers from vanishing gradients.",
        "In the plane, where no pre-activation is 0. One that is has the slope 1: h_0 = 0, or (0, 0.5) under a quarter "
        "turn, keeps ‖∂h_T/∂h_0‖ at 1 or more for ever.",
        CONDITIONAL,
        figure_one.orthogonal_gradient_vanishes,
        proof="10.10",
    ),
    Claim(
        "crossed-words",
        "section 4, Figure 1(c) and (d)",
        "A two-dimensional orthogonal matrix is a reflection or a rotation; its determinant is 1 or −1 respectively.",
        "The determinant of a rotation is 1, of a reflection −1.",
        REFUTED,
        figure_one.crossed_words,
        proof="10.10",
    ),
    Claim(
        "away-and-towards",
        "section 4, Figure 1(e) and (f), review version",
        "With the eigenvalues 2 the states move away from the origin, with −2 towards it.",
        "",
        HOLDS,
        figure_one.away_and_towards,
        proof="10.13",
    ),
    Claim(
        "circular-field",
        "section 4, Figure 1(g), review version",
        "The vector field tanh(W₀ h) is circular.",
        "Its orbits are the level sets of log cosh 2x + log cosh 2y, circles only in the limit of small h.",
        REFUTED,
        figure_one.circular_field,
        proof="10.13",
    ),
    Claim(
        "outward-spirals",
        "section 4, Figure 1(g), review version",
        "Under W₀ the trajectories are outward spirals.",
        "",
        HOLDS,
        figure_one.outward_spirals,
        proof="10.13",
    ),
    Claim(
        "every-step-moves-outward",
        "section 4, Figure 1(g), review version",
        "Under W₀ each step along the tangent increases the distance from the origin.",
        "Each step increases E.",
        REFUTED,
        figure_one.every_step_moves_outward,
        proof="10.13",
    ),
    Claim(
        "constant-distance",
        "section 4, Figure 1(h)",
        "Under W_diff the trajectory keeps a constant distance from the origin.",
        "Each of five starts tends to one limit cycle, of radius 0.5700 to 0.5981, 0.5841 in the mean.",
        REFUTED,
        figure_one.constant_distance,
        proof="10.5",
    ),
    Claim(
        "initial-variances",
        "appendix on the experiments",
        "V ~ N(0, 1/m) and W ~ N(0, σ_w²/n), the second argument a variance.",
        "",
        HOLDS,
        counting.initial_variances,
        proof="9",
    ),
    Claim(
        "published-counts",
        "Tables 1 and 2, at m = 1 and m = 3",
        "The models have 10k, 10k, 36k, 37k and 42k parameters, the LSTMs 68k and 69k.",
        "",
        HOLDS,
        counting.published_counts,
        proof="9",
    ),
    Claim(
        "published-counts-when-padded",
        "Table 2, the noise-padded task, m = 96",
        "The models of the noise-padded column have 36k, 37k, 42k and 69k parameters.",
        "They have 60,042, 84,874, 78,410 and 116,490: the column is that of m = 3.",
        REFUTED,
        counting.published_counts_when_padded,
        proof="9",
    ),
    Claim(
        "lstm-has-more-parameters",
        "section 5, review version",
        "The AntisymmetricRNNs use a seventh of the LSTM's parameters on MNIST, about half on pixel CIFAR-10, and "
        "fewer on the noise-padded task.",
        "",
        HOLDS,
        counting.lstm_has_more_parameters,
        proof="9",
    ),
)
"""Every claim, in the paper's order."""


def judge(claim: Claim, quick: bool = False) -> Judgement:
    """Run the check of a claim.

    Parameters
    ----------
    claim : Claim
    quick : bool
        Fewer random instances; nothing else changes.

    Returns
    -------
    Judgement
        An exception inside the check propagates: a check that breaks decides nothing.
    """
    with ctx.workprec(PRECISION):
        return Judgement(claim, claim.check(quick))
