"""Which of the forms in PyTorch's own operations runs a call, and how the fastest is found."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from nas import kernels
from nas.kernels._core import forms as chosen
from nas.kernels._core.forms import Forms
from nas.kernels.tools import choosing
from nas.kernels.tools.choosing import FORMS, cases, fastest, tune
from nas.operators import build_operator


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    kernels.use({})


ran: list[float] = []


@pytest.fixture
def sleepers(monkeypatch) -> Forms:
    """A function whose rule takes the slower one of three forms; `ran` has the seconds of each call."""

    def sleeping(seconds: float):
        def form(x: torch.Tensor, factor: int) -> torch.Tensor:
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass
            ran.append(seconds)
            return x * factor

        return form

    ran.clear()
    forms = Forms(
        "sleepers",
        {
            **{"slow": sleeping(2e-3), "quick": sleeping(1e-3), "hopeless": sleeping(3e-2), "large": sleeping(0.0)},
            "refused": lambda *_: torch.ones(2) + torch.ones(3),
        },
        lambda *_: "slow",
        {"large": lambda x, _: 2**40},
    )
    monkeypatch.setitem(choosing.FORMS, "sleepers", forms)
    return forms


def cases_of(forms: Forms, *arguments) -> dict[chosen.Case, str]:
    with chosen.noted() as found:
        forms(*arguments)
    return found


def test_the_fastest_replaces_the_rules(sleepers):
    ((case, rule),) = cases_of(sleepers, torch.ones(3), 2).items()
    ran.clear()
    found = fastest(case, rule)
    assert (found.form, found.rule) == ("quick", "slow") and found.milliseconds.keys() == {"slow", "quick", "hopeless"}
    assert ran.count(3e-2) == 1 and 0.0 not in ran  # stopped early; never tried; what raises is none of them
    kernels.use({str(case): found.form})
    for images, seconds in ((3, 1e-3), (4, 2e-3)):  # what was not measured goes by the rule
        sleepers(torch.ones(images), 2)
        assert ran[-1] == seconds


def test_a_gain_of_less_than_three_percent_changes_nothing():
    turn = iter(range(1000))
    scattering = lambda calls: (0.7, 1.2)[next(turn) % 2]  # noqa: E731
    runs = {"slow": lambda calls: 1.0, "quick": lambda calls: 0.98, "scatters": scattering}
    assert choosing._compared(runs, "slow").form == "slow"
    assert choosing._compared({**runs, "quick": lambda calls: 0.96}, "slow").form == "quick"


def test_a_form_that_this_version_does_not_have_is_not_asked_for(sleepers):
    ((case, _),) = cases_of(sleepers, torch.ones(3), 2).items()
    kernels.use({str(case): "gone"})
    assert sleepers.choose(torch.ones(3), 2) == "slow"


def test_a_case_is_what_matters_to_speed():
    x, y = torch.ones(2, 4, 4, 4), torch.ones(2, 1, 3, 3, 4, 4)
    last = x.contiguous(memory_format=torch.channels_last)  # which every form makes contiguous
    texts = set()
    for arguments in ((x, y), (last, y), (x.double(), y.double()), (x[:1], y[:1])):
        for stride in ((1, 1), [1, 1]):
            texts |= {str(case) for case in cases_of(FORMS["involution"], *arguments, stride, (1, 1), (1, 1))}
    torch.set_num_threads(2)
    texts |= {str(case) for case in cases_of(FORMS["involution"], x, y, (1, 1), (1, 1), (1, 1))}
    assert len(texts) == 4


def test_under_autocast_the_case_is_that_of_the_cast():
    """Both where the operation casts its tensors and where its form is made of operations that do."""
    involution = build_operator("involution", 16, 16, kernel_size=3)
    odconv = build_operator("odconv", 8, 8)
    found = cases(involution, torch.randn(2, 16, 5, 5), torch.bfloat16)
    assert [spec.dtype for case in found for spec in case.arguments[:2]] == [torch.bfloat16] * 2
    for dtype in (torch.bfloat16, torch.float16, None):
        ((case, rule),) = cases(odconv, torch.randn(2, 8, 5, 5), dtype).items()
        assert {spec.dtype for spec in case.arguments[:4]} == {dtype or torch.float32}
        assert fastest(case, rule).milliseconds.keys() == {"mixed", "n_fold"}


@pytest.mark.parametrize(
    ("model", "image", "num_cases"),
    [
        (build_operator("involution", 16, 16, kernel_size=3), (16, 6, 6), 2),
        (build_operator("odconv", 8, 8), (8, 5, 5), 1),
        (build_operator("gnconv", 8, 8, order=2, filter="global", grid=(4, 4)), (8, 4, 4), 2),
    ],
    ids=["involution", "odconv", "global filter"],
)
def test_every_form_of_a_network_computes_the_same(model: nn.Module, image, num_cases):
    x = torch.randn(3, *image)
    found = cases(model, x, training=True)
    assert len(found) == num_cases
    results = []
    for number in range(3):
        choices = {}
        for case in found:
            names = list(FORMS[case.forms].forms)
            choices[str(case)] = names[number % len(names)]
        kernels.use(choices)
        given = x.clone().requires_grad_()
        model.zero_grad()
        y = model(given)
        y.square().sum().backward()
        results.append((y, given.grad, *(p.grad for p in model.parameters())))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=2e-4, atol=2e-4)


def test_tune_has_a_model_run_by_what_was_measured():
    model = build_operator("involution", 16, 16, kernel_size=7).eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    choices = tune(model, (1, 16, 6, 6), training=True)
    assert len(choices) == 2 and all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert chosen.used() == choices and not model.training
    assert tune(model, (1, 16, 6, 6), training=True) == choices  # nothing is measured twice


def test_a_forced_form_leaves_nothing_to_choose(monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", "aten")
    assert tune(build_operator("odconv", 8, 8), (2, 8, 5, 5)) == {}


def test_what_is_counted_does_not_depend_on_what_was_measured():
    """FLOPs are those of the rule, whatever a device prefers."""
    from torch.utils.flop_counter import FlopCounterMode

    model = build_operator("odconv", 8, 8).eval()
    (case,) = cases(model, torch.randn(1, 8, 5, 5))
    counts = []
    for choices in ({}, {str(case): "n_fold"}):
        kernels.use(choices)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.to("meta")(torch.empty(1, 8, 5, 5, device="meta"))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
