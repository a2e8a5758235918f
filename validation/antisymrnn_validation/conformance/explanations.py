"""What each check is about: the promise, where it is written, the usual cause of a failure, and how to mend it."""

from __future__ import annotations

import difflib
from typing import NamedTuple


class Explanation(NamedTuple):
    """One check, explained.

    Attributes
    ----------
    promise : str
        What must hold.
    source : str
        Equation tags of the specification, or the place in the contract.
    usual_cause, mend : str
    """

    promise: str
    source: str
    usual_cause: str
    mend: str


EXPLANATIONS = {
    "last state": Explanation(
        "h_T agrees with its certified truth, for h0 = 0.",
        "(F1) to (F4); gated (GF1) to (GF5)",
        "another matrix M: W transposed, γ subtracted from every entry, W for W − Wᵀ; or ε at another place.",
        "Compare one step by hand: a = M h + V x + b with M = W − Wᵀ − γI, then h + ε tanh a.",
    ),
    "every state": Explanation(
        "Every state h_0 … h_T agrees with its certified truth, for h0 ≠ 0.",
        "(F1) to (F4); gated (GF1) to (GF5)",
        "h0 ignored, states shifted by one step, or x[t] taken for another step than t + 1.",
        "h[0] must be h0, and x[t] leads from h[t] to h[t + 1].",
    ),
    "accuracy": Explanation(
        "Every state and the gradient of every input agree with their certified truth.",
        "(B1) to (B9); gated (GB1) to (GB8)",
        "if h is right and a gradient is not: the state after the step in (B3), dW = G for G − Gᵀ, a cotangent of an "
        "inner state left out, a mean over the batch for a sum.",
        "Read the diagnosis; then hold the backward pass line by line against antisymrnn_ref/antisymmetric.py.",
    ),
    "result types": Explanation(
        "Gradients has the parameters' own type; every array has the contract's shape, dtype and array type.",
        "contract.Gradients, contract.Trajectory",
        "a scalar gradient returned as float, or h without h0.",
        "Return () arrays for ε and γ, and (K, B, n) states with h[0] = h0.",
    ),
    "checkpointing": Explanation(
        "keep_every=k keeps the states 0, k, 2k, … and T, and changes no bit of them or of a gradient.",
        "DERIVATION.md, section 4",
        "sums over steps whose order depends on the segments, or another kernel for the steps that are made again.",
        "Make a step by one function, and add over steps in an order that does not know keep_every.",
    ),
    "without input gradient": Explanation(
        "input_gradient=False leaves x out (None) and changes nothing else. In PyTorch the gradients of the parameters "
        "are taken alone then, and those of h0, ε and γ alone.",
        "contract.Gradients",
        "zeros returned for None; a branch on needs_input_grad that skips more than the gradient that is not needed.",
        "Return None for what is not needed, and compute the others by the same lines.",
    ),
    "repeatability": Explanation(
        "The same call gives the same bits.",
        "the contract, on bits",
        "atomic sums, a reduction whose order depends on threads, uninitialised memory.",
        "Fix the order of every sum, and write every entry before it is read.",
    ),
    "independent calls": Explanation(
        "A call depends on its arguments alone, and no result is overwritten by a later call.",
        "the contract, on arguments",
        "a workspace or a packed matrix kept between calls, with other arrays or other ε and γ, or a trajectory that "
        "refers to shared buffers; in PyTorch, what backward needs kept on the module or in a global.",
        "Give results memory of their own; key a cache by the content of all that it depends on; save what backward "
        "needs in ctx.",
    ),
    "scalar rounding": Explanation(
        "ε and γ are rounded once to the dtype of the arrays.",
        "DERIVATION.md, section 1.5",
        "a Python float used in float64 arithmetic beside float32 arrays.",
        "Round both scalars first, and use the rounded ones everywhere.",
    ),
    "antisymmetric gradient": Explanation(
        "dW + dWᵀ = 0 exactly.",
        "(B8)",
        "dW = G, or the two halves summed in different orders.",
        "dW = G − Gᵀ, as one subtraction for each pair of entries.",
    ),
    "symmetric part of W": Explanation(
        "A symmetric matrix added to W changes no bit of any result.",
        "(F1)",
        "W used beside W − Wᵀ, or W read as triangular.",
        "Let W act through W − Wᵀ alone.",
    ),
    "signed permutation": Explanation(
        "Units renamed (and, without a gate, their signs turned) give the same results, renamed.",
        "(F1) to (F4)",
        "a special treatment of some units: tails of a vector, a triangular W, γ off the diagonal.",
        "Look at the units that the failure names.",
    ),
    "chunks": Explanation(
        "A sequence cut in two, the second begun from the first's last state, gives the results of the whole.",
        "(F4), (B2)",
        "h0 or the cotangent of the last state handled apart.",
        "Begin from h0 and g_T, whatever they are.",
    ),
    "batch sum": Explanation(
        "A batch gives the states of its samples, and the sum of their gradients.",
        "DERIVATION.md, section 1.3",
        "a mean over the batch, or samples that see each other.",
        "Sum; a mean belongs into g.",
    ),
    "neighbours": Explanation(
        "A sample's states do not depend, to the bit, on the rest of the batch.",
        "the contract, on bits",
        "a matrix product whose order of summation depends on the size of the batch, as BLAS's does.",
        "Sum every entry in one order, whatever the tile.",
    ),
    "neighbours to rounding": Explanation(
        "A sample's states do not depend, but for rounding, on the rest of the batch.",
        "(F2)",
        "statistics over the batch, or a wrong axis.",
        "Samples are rows; nothing is summed over them in forward.",
    ),
    "nan column": Explanation(
        "A NaN in the input of one sample reaches its later states and the shared gradients, and no other sample.",
        "the contract, on NaN",
        "fast-math, a clipped or masked input, or samples that share a lane.",
        "Compile without fast-math; take min and max in an order that keeps NaN.",
    ),
    "nan column to rounding": Explanation(
        "A NaN in the input of one sample reaches its later states and the shared gradients; no other sample moves.",
        "the contract, on NaN",
        "fast-math, a clipped or masked input, or samples that share a lane.",
        "Compile without fast-math; take min and max in an order that keeps NaN.",
    ),
    "blank inputs": Explanation(
        "Inputs that are all zero, and samples with equal inputs, are inputs like any other.",
        "(F2), (F3)",
        "steps of zeros masked or skipped as padding, or results looked up by the input alone.",
        "Make every step: with x_t = 0 the state still moves by ε tanh(M h + b).",
    ),
    "infinite input": Explanation(
        "An infinite input saturates: tanh(±∞) = ±1, σ(±∞) is 1 or 0.",
        "(F3), (GF4)",
        "tanh by exp(2a)/(exp(2a) + 1), which is ∞/∞.",
        "Take a tanh that saturates.",
    ),
    "non finite values": Explanation(
        "A NaN or ∞ in any argument reaches the entries that it reaches in the specification, and no other.",
        "(F1) to (B9)",
        "padding multiplied into the sums, 0 · ∞; a term skipped where a factor is 0; in a backend, γ h subtracted "
        "from a rather than γ from the diagonal of M.",
        "Keep padding at 0 on both sides of a product; form M = W − Wᵀ − γI.",
    ),
    "huge values": Explanation(
        "Where huge arguments leave a result finite in the specification, it is finite, and nowhere else.",
        "(F2), (F3), (GF4)",
        "exp of a large argument, or a square that overflows.",
        "Clip inside tanh and σ, where they are constant.",
    ),
    "denormal values": Explanation(
        "Denormal arguments give results within the tolerance.",
        "(F2)",
        "a division by something near 0 inside tanh; flushed denormals are within the tolerance.",
        "Use tanh a ≈ a near 0.",
    ),
    "written outputs": Explanation(
        "Every entry of every result is written.",
        "the contract, on results",
        "memory from an allocator that is not cleared, and an entry (a tail, T = 0) that no loop reaches.",
        "Write tails, and the results of empty loops.",
    ),
    "inputs untouched": Explanation(
        "No argument is written, and read-only ones are accepted.",
        "the contract, on arguments",
        "an update in place of h0 or g.",
        "Copy what is to be changed.",
    ),
    "no aliasing": Explanation(
        "No result shares memory with an argument.",
        "the contract, on arguments",
        "h[0] or dh0 returned as a view of an input; T = 0 is where it happens.",
        "Copy.",
    ),
    "non contiguous": Explanation(
        "Arrays of any layout give results within the tolerance, and keep_every still changes no bit.",
        "the contract, on arguments",
        "strides ignored, or another order of summation for another layout.",
        "Copy to C order first.",
    ),
    "thread counts": Explanation(
        "1, 2 and 3 threads give the same bits.",
        "the contract, on bits",
        "work cut by the number of threads.",
        "Cut by the sizes alone.",
    ),
    "concurrent calls": Explanation(
        "Calls from several threads at once give the bits of calls one after another.",
        "the contract, on bits",
        "scratch memory shared between calls.",
        "One workspace for each call.",
    ),
    "memory": Explanation(
        "keep_every=k takes O(T/k + k) states of memory.",
        "DERIVATION.md, section 4",
        "something of T states kept beside the trajectory.",
        "Keep per segment what backward needs per step.",
    ),
    "signatures": Explanation(
        "ε and γ are keyword-only and have no default.",
        "the contract, on arguments",
        "defaults: public codes disagree on them.",
        "Copy the signatures of antisymrnn_ref/antisymmetric.py.",
    ),
    "errors": Explanation(
        "Bad calls raise the contract's exceptions with the contract's words, before any work.",
        "contract.checked_forward, contract.checked_backward",
        "checks of one's own.",
        "Decorate forward and backward with the contract's decorators.",
    ),
    "conversion": Explanation(
        "asarray and to_numpy convert without loss, copy, and refuse another dtype.",
        "the contract, on arrays",
        "a silent cast.",
        "Accept float32 and float64 alone.",
    ),
}
"""By the name of a check."""


def explain(name: str) -> Explanation:
    """The explanation of a check.

    Raises
    ------
    ValueError
        If there is no such check; the message has the closest.
    """
    if name not in EXPLANATIONS:
        close = difflib.get_close_matches(name, EXPLANATIONS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"check: expected one of {', '.join(EXPLANATIONS)}, got {name!r}{hint}")
    return EXPLANATIONS[name]
