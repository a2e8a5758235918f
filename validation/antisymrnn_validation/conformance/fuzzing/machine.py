"""Draw sequences of calls with hypothesis, and shrink one that fails."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from antisymrnn_validation.conformance.check import DTYPES
from antisymrnn_validation.conformance.fuzzing.session import EDITS, Failure, Session, Tally
from antisymrnn_validation.output.terminal import placed
from antisymrnn_validation.truth import store
from antisymrnn_validation.truth.calls import BrokenPromise, NotSupported, features_of, limited, promises_bits
from antisymrnn_validation.truth.cases import CELLS, Case, random_case
from antisymrnn_validation.truth.layouts import OPTIONS, Layout, arguments_of
from antisymrnn_validation.truth.oracles import OracleError
from antisymrnn_validation.truth.structures import GATED, STRUCTURES, structured

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine

SLOTS = 3
"""How many problems a session holds at a time."""

WORK = 1_500_000
"""T B (n + m) (n + 8) at most of one problem: its truth takes most of the time, half a second for this much."""

REPEATED, QUICK = 12, 20_000
"""Calls of a repetition, and about how many entries of x and h there are in all of them."""

SHRINKING = 60.0
"""Seconds that a failing sequence may take to be shrunk."""

EXAMPLES, STEPS = 50, 8
"""Sequences of a round, each round with a seed of its own, and calls of a sequence at most."""


class Report(NamedTuple):
    """The results of fuzzing a target.

    Attributes
    ----------
    seed, rounds : int
        What was drawn depends on these alone.
    tally : Tally
    failure : Failure or None
    """

    seed: int
    rounds: int
    tally: Tally
    failure: Failure | None


class _TimeIsUp(BaseException):
    """Ends a round between two calls, or within one."""


def fuzz(
    target: ModuleType,
    *,
    minutes: float = 1.0,
    seed: int = 0,
    dtypes: Sequence[str] = DTYPES,
    rounds: int | None = None,
    progress: Callable[[Tally, Sequence[str]], None] = lambda *_: None,
) -> Report:
    """Draw sequences of calls until one fails or the time is over.

    Parameters
    ----------
    target : module
        A backend or a candidate.
    minutes : float
        When to stop. A call that does not return is ended only where Python can: in the main thread of a Unix process,
        and not within compiled code; ``antisymrnn conform --fuzz`` runs in a process of its own for that.
    seed : int
        Of the first round; the same seed draws the same sequences.
    dtypes : sequence of str
        Of the arrays.
    rounds : int, optional
        Stop after so many.
    progress : callable
        Takes what was done so far and the sequence of the moment, before every call.

    Returns
    -------
    Report
    """
    import hypothesis
    from hypothesis.stateful import run_state_machine_as_test

    log = _Log(time.monotonic() + 60 * minutes, progress)
    machine = _machine(target, log, dtypes)
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=False,
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    done = 0
    try:
        with store.off(), limited(60 * minutes, log.over):
            while rounds is None or done < rounds:
                run_state_machine_as_test(hypothesis.seed(seed + done)(machine), settings=settings)
                done += 1
    except _TimeIsUp:
        pass
    except Exception as error:
        # hypothesis makes an error of its own of an end in the midst of a draw
        if log.failure is None and not log.ended:
            raise RuntimeError(f"the fuzzer broke off: {placed(error)}") from error
    return Report(seed, done, log.tally, log.failure)


class _Log:
    """What is known across the sequences of a run."""

    def __init__(self, end: float, progress: Callable[[Tally, Sequence[str]], None]) -> None:
        self.end, self.progress = end, progress
        self.tally = Tally()
        self.failure: Failure | None = None
        self.ended = False

    def over(self) -> BaseException:
        """The exception that ends the run."""
        self.ended = True
        return _TimeIsUp()

    def failed(self, message: str, steps: Sequence[str]) -> None:
        """Keep a failure if it is the shortest so far; the first one limits the time that is left."""
        found = Failure(message, tuple(steps))
        if self.failure is None:
            self.end = min(self.end, time.monotonic() + SHRINKING)
        if self.failure is None or found.size <= self.failure.size:
            self.failure = found


def _text(value: Any) -> str:
    """A value as Python writes it; of a layout only what is not plain."""
    if isinstance(value, Layout):
        named = {name: v for name, v in value._asdict().items() if v != OPTIONS[name][0]}
        return f"Layout({', '.join(f'{name}={v!r}' for name, v in named.items())})"
    if isinstance(value, Case):
        return value.recipe
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_text(v)}" for key, v in value.items()) + "}"
    return repr(value)


def _machine(target: ModuleType, log: _Log, dtypes: Sequence[str]) -> type[RuleBasedStateMachine]:
    """The state machine whose rules are the methods of a session."""
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

    features = features_of(target)
    cells = [cell for cell in CELLS if cell == CELLS[0] or "gated" in features]
    seeds, slots = st.integers(0, 2**16), st.integers(0, SLOTS - 1)
    layout = st.builds(Layout, **{name: st.sampled_from(values) for name, values in OPTIONS.items()})
    step_sizes = st.sampled_from([0.3, 0.1, 0.01, 0.5, 1.0, 2.5])
    diffusions = st.sampled_from([0.2, 0.0, 0.01, 1.5])
    small = st.tuples(st.integers(0, 12), st.integers(1, 6), st.integers(1, 10), st.integers(1, 6))
    ordinary = st.tuples(
        st.one_of(st.integers(0, 12), st.sampled_from([16, 17, 31, 32, 64, 100, 257, 1030])),
        st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 31, 32, 64, 65, 128])),
        st.one_of(st.integers(1, 66), st.sampled_from([16, 32, 64, 128, 256])),
        st.one_of(st.integers(1, 9), st.sampled_from([16, 28, 32, 96, 98, 130])),
    )
    sizes = st.one_of(small, small, small, ordinary)
    calls = st.sampled_from(["backward", "forward", "repeat"])
    of_cotangents = [name for name in STRUCTURES if name.startswith("g ")]

    @st.composite
    def layouts(draw: st.DrawFn, cell: str) -> dict[str, Layout]:
        if "layouts" not in features:
            return {}
        names = ["x", "h0", "g", "W", "V", "b", *(["V_z", "b_z"] if cell == "gated" else [])]
        return draw(st.dictionaries(st.sampled_from(names), layout, max_size=6))

    @st.composite
    def cases(draw: st.DrawFn) -> Case:
        cell = draw(st.sampled_from(cells))
        T, B, n, m = draw(sizes)
        of_a_sample = (n + m) * (n + 8)
        B = min(B, max(1, WORK // of_a_sample))
        T = min(T, WORK // (B * of_a_sample))
        known = [name for name in STRUCTURES if cell == "gated" or name not in GATED]
        case = random_case(
            cell, T, B, n, m,
            name="fuzz", seed=draw(seeds), dtype=draw(st.sampled_from(dtypes)),
            step_size=draw(step_sizes), diffusion=draw(diffusions),
            scale=draw(st.sampled_from([1.0, 0.3, 3.0])),
            amplitude=draw(st.sampled_from([1.0, 0.1, 1e-4, 10.0, 100.0])),
            unconstrained="ablation" in features and draw(st.booleans()), last_state_only=draw(st.booleans()),
        )  # fmt: skip
        chosen = draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
        return structured(case, chosen, draw(seeds)) if chosen else case

    class Calls(RuleBasedStateMachine):
        """A session and the calls that were made so far."""

        def __init__(self) -> None:
            super().__init__()
            self.session, self.before = Session(target), log.tally
            self.steps: list[str] = []

        def call(self, method: str, *arguments: Any, **keywords: Any) -> None:
            """One call of the session, noted first."""
            if time.monotonic() > log.end:
                raise log.over()
            texts = [*map(_text, arguments), *(f"{name}={_text(value)}" for name, value in keywords.items())]
            self.steps.append(f"session.{method}({', '.join(texts)})")
            log.progress(log.tally, self.steps)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error" if "contract" in features else "ignore")
                    getattr(self.session, method)(*arguments, **keywords)
            except (NotSupported, OracleError):
                self.steps.pop()
            except (Exception, SystemExit) as error:  # noqa: BLE001 (a target may raise anything: it is its failure)
                message = str(error) if isinstance(error, BrokenPromise) else f"raised {placed(error)}"
                log.failed(message, self.steps)
                raise AssertionError(message) from None
            finally:
                done, before = self.session.tally, self.before
                largest = max(done.largest, before.largest, key=lambda sizes: sizes[0] * sizes[1] * sizes[2] ** 2)
                log.tally = Tally(before.calls + done.calls, before.cells + done.cells, largest)

        def held(self, slot: int) -> int:
            """A slot that holds a problem."""
            known = sorted(self.session.problems)
            return known[slot % len(known)]

        def judged(self, slot: int, method: str) -> None:
            """A call whose results are judged."""
            case = self.session.problems[slot].case
            few = 2 + QUICK // (1 + case.x.size + len(case.x) * case.h0.size)
            self.call(method, slot, *([min(few, REPEATED)] if method == "repeat" else []))

        @initialize(data=st.data())
        def begin(self, data: st.DataObject) -> None:
            case = data.draw(cases())
            self.call("problem", 0, case, data.draw(layouts(case.cell)))
            self.judged(0, data.draw(calls))

        @rule(slot=slots, data=st.data(), then=calls)
        def draw(self, slot: int, data: st.DataObject, then: str) -> None:
            case = data.draw(cases())
            self.call("problem", slot, case, data.draw(layouts(case.cell)))
            self.judged(slot, then)

        @rule(slot=slots, keep_every=st.one_of(st.integers(1, 40), st.just(2000)))
        def forward(self, slot: int, keep_every: int) -> None:
            kept = keep_every if "keep_every" in features else 1
            self.call("forward", self.held(slot), **({"keep_every": kept} if kept > 1 else {}))

        @rule(slot=slots, input_gradient=st.booleans())
        def backward(self, slot: int, input_gradient: bool) -> None:
            self.call("backward", self.held(slot), **({} if input_gradient else {"input_gradient": False}))

        @rule(slot=slots, seed=seeds, said=st.lists(st.sampled_from(of_cotangents), max_size=2), last=st.booleans())
        def cotangents(self, slot: int, seed: int, said: list[str], last: bool) -> None:
            slot = self.held(slot)
            self.call("cotangents", slot, said, seed, **({"last_state_only": True} if last else {}))
            self.judged(slot, "backward")

        @rule(slot=slots)
        def states_as_cotangents(self, slot: int) -> None:
            slot = self.held(slot)
            self.call("states_as_cotangents", slot)
            self.judged(slot, "backward")

        @rule(slot=slots, data=st.data(), edit=st.sampled_from(sorted(EDITS)), seed=seeds, then=calls)
        def refill(self, slot: int, data: st.DataObject, edit: str, seed: int, then: str) -> None:
            slot = self.held(slot)
            name = data.draw(st.sampled_from(sorted(arguments_of(self.session.problems[slot].case))))
            self.call("refill", slot, name, edit, seed)
            self.judged(slot, then)

        @rule(slot=slots, data=st.data(), then=calls)
        def lay_out(self, slot: int, data: st.DataObject, then: str) -> None:
            slot = self.held(slot)
            self.call("lay_out", slot, data.draw(layouts(self.session.problems[slot].case.cell)))
            self.judged(slot, then)

        @rule(slot=slots, step_size=step_sizes, diffusion=diffusions, then=calls)
        def constants(self, slot: int, step_size: float, diffusion: float, then: str) -> None:
            slot = self.held(slot)
            self.call("constants", slot, step_size, diffusion)
            self.judged(slot, then)

        @rule(chosen=st.lists(slots, min_size=1, max_size=3), threads=st.sampled_from([2, 4, 8]))
        def at_once(self, chosen: list[int], threads: int) -> None:
            if promises_bits(target):
                self.call("at_once", sorted({self.held(slot) for slot in chosen}), threads)

        @rule(slot=slots, then=calls)
        def spoil(self, slot: int, then: str) -> None:
            slot = self.held(slot)
            self.call("spoil", slot)
            self.judged(slot, then)

    return Calls
