"""Judge a candidate from Python or from pytest: the checks of ``plan.py``, with a diagnosis where one fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from antisymrnn_ref import load_backend
from antisymrnn_validation.conformance import plan
from antisymrnn_validation.conformance.check import DTYPES, Check, Result
from antisymrnn_validation.conformance.fuzzing import machine
from antisymrnn_validation.conformance.mistakes.diagnosis import Explanations, diagnose
from antisymrnn_validation.output.names import within
from antisymrnn_validation.truth import calls
from antisymrnn_validation.truth.cases import CELLS, Case, random_case

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Target = str | ModuleType
"""A backend by name or module path, or a module: a backend, or what ``targets.functions`` makes of anything else."""


class Report(NamedTuple):
    """The results of judging a candidate.

    Attributes
    ----------
    target : str
    results : list of Result
        One for each check, in order.
    """

    target: str
    results: list[Result]

    @property
    def counts(self) -> Counter[str]:
        """How many checks have each status."""
        return Counter(result.status for result in self.results)

    @property
    def conformant(self) -> bool:
        """Whether something ran and nothing failed but as expected."""
        return self.counts["failed"] == 0 < self.counts["passed"] + self.counts["expected failure"]

    @property
    def failures(self) -> list[Result]:
        """The results that failed."""
        return [result for result in self.results if result.status == "failed"]


def load(target: Target) -> tuple[str, ModuleType]:
    """A target's name in the checks, and its module; the specification is judged alike under each of its names."""
    module = load_backend(target) if isinstance(target, str) else target
    name = target if isinstance(target, str) else module.__name__
    return ("numpy" if module.__name__ == "antisymrnn_ref" else name), module


def checks_of(
    target: Target,
    *,
    quick: bool = False,
    level: int | None = None,
    dtypes: Sequence[str] = DTYPES,
    only: str = "",
    drawn: int | None = None,
) -> list[Check]:
    """The checks that :func:`check_backend` runs, in order.

    Parameters
    ----------
    target : str or module
    quick : bool
        Leave out the longest.
    level, only
        As for :func:`selected`.
    dtypes : sequence of str
    drawn : int, optional
        In place of the checks, accuracy on so many cases drawn at random.
    """
    name, module = load(target)
    features = calls.features_of(module)
    if drawn is None:
        every = plan.iter_checks(name, quick=quick, features=features, dtypes=dtypes)
    else:
        every = plan.drawn_checks(name, drawn, features=features, dtypes=dtypes)
    return selected(every, level=level, only=only)


def selected(every: Sequence[Check], *, level: int | None = None, only: str = "") -> list[Check]:
    """Those of some checks up to a level, if one is given, with a text within "check: case"."""
    return [
        check
        for check in every
        if (level is None or check.level <= level) and within(only, f"{check.name}: {check.case}")
    ]


def check_backend(
    target: Target, *, expected_failures: Mapping[str, str] | None = None, source: str = "", **options: Any
) -> Report:
    """Judge a backend or a candidate.

    Parameters
    ----------
    target : str or module
    expected_failures : mapping of str to str
        Under a text in "check: case" the reason why such a check fails. One that passes all the same is a failure.
    source : str
        A Python expression that gives the candidate, for the script that shows a failure again.
    **options
        Those of :func:`checks_of`.

    Returns
    -------
    Report

    Raises
    ------
    BackendUnavailable, ValueError, TypeError
        As ``load_backend`` for a name.
    """
    name, module = load(target)
    explanations = Explanations()
    results = [
        judged(check, module, expected_failures or {}, source=source, explanations=explanations)
        for check in checks_of(target, **options)
    ]
    return Report(name, results)


def judged(
    check: Check,
    module: ModuleType,
    expected_failures: Mapping[str, str],
    *,
    source: str = "",
    explanations: Explanations | None = None,
) -> Result:
    """Run one check; with a diagnosis if results of a case are wrong, and with the verdict on an expected failure.

    ``explanations`` are shared by the checks of a run: what explained one failure is tried first on the next. Without
    them the failure is the first of its run.
    """
    result = check.run(module)
    if result.status == "failed" and result.wrong is not None:
        case, arrays, keep_every, plain, oracle = result.wrong
        found = diagnose(
            arrays,
            case,
            result.errors,
            keep_every=keep_every,
            target=source if plain else "",
            oracle=oracle,
            explanations=explanations or Explanations(),
        )
        rounding = found.rounding.rounding.name if found.rounding else ""
        result = result._replace(diagnosis=found.text(), deviations=tuple(found.names))
        result = result._replace(rounding=rounding, script=found.reproduce)
    reasons = [reason for text, reason in expected_failures.items() if text in f"{check.name}: {check.case}"]
    if not reasons or result.status == "not applicable":
        return result
    if result.status == "failed":
        return result._replace(status="expected failure", detail=f"{reasons[0]} ({result.detail})")
    return result._replace(status="failed", detail=f"passed, though expected to fail: {reasons[0]}")


def fuzz(target: Target, **options: Any) -> machine.Report:
    """Draw sequences of calls of a target; ``options`` and the result are those of ``fuzzing.machine.fuzz``.

    Examples
    --------
    ::

        def test_sequences_of_calls():
            report = fuzz("my_package.my_backend", minutes=0.5)
            assert report.failure is None, report.failure.message
    """
    return machine.fuzz(load(target)[1], **options)


def parametrize_with_checks(targets: Sequence[Target], **options: Any) -> Callable[..., Any]:
    """A pytest decorator: the test gets ``target``, a module, and ``check``, for every check of every target.

    Examples
    --------
    ::

        @parametrize_with_checks(["my_package.my_backend"])
        def test_conformance(target, check):
            result = check.run(target)
            assert result.status != "failed", result.detail
    """
    import pytest

    parameters = [
        pytest.param(module, check, id=f"{name}-{check.name}-{check.case}".replace(" ", "_"))
        for name, module, target in ((*load(target), target) for target in targets)
        for check in checks_of(target, **options)
    ]
    return pytest.mark.parametrize(("target", "check"), parameters)


def problems(
    cells: Sequence[str] = CELLS, dtypes: Sequence[str] = DTYPES, most: tuple[int, int, int, int] = (8, 4, 9, 4)
) -> SearchStrategy[Case]:
    """A hypothesis strategy of cases with T, B, n, m up to ``most``, in generic position and at the corners."""
    from hypothesis import strategies as st

    T, B, n, m = most
    return st.builds(
        random_case,
        st.sampled_from(cells),
        st.integers(0, T),
        st.integers(1, B),
        st.integers(1, n),
        st.integers(1, m),
        step_size=st.sampled_from([0.01, 0.1, 0.3, 1.0]),
        diffusion=st.sampled_from([0.0, 0.01, 0.2]),
        seed=st.integers(0, 2**31 - 1),
        dtype=st.sampled_from(dtypes),
        scale=st.sampled_from([0.3, 1.0, 3.0]),
        last_state_only=st.booleans(),
        unconstrained=st.booleans(),
    )
