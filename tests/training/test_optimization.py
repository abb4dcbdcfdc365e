# SPDX-License-Identifier: Apache-2.0
"""Groups of parameters, schedules and averages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from video_saliency.training.optimization import AveragedWeights, Schedule, make_optimizer
from video_saliency.training.training_arguments import OptimizerArguments, RateGroup


def small_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[0].weight.requires_grad_(False)
    return model


def test_groups_have_their_own_rates_and_vectors_do_not_decay():
    groups = [RateGroup("^2", 0.5), RateGroup("bias", 0.7, weight_decay=0.3)]
    arguments = OptimizerArguments(learning_rate=0.1, weight_decay=0.2, decay_vectors=False, groups=groups)
    model = small_model()
    optimizer = make_optimizer(model, arguments)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    expected = {
        "0.bias": (0.7, 0.0),
        "1.weight": (0.1, 0.0),
        "1.bias": (0.7, 0.0),
        "2.weight": (0.5, 0.2),
        "2.bias": (0.5, 0.0),
    }
    assert {name: found[id(p)] for name, p in model.named_parameters() if id(p) in found} == expected
    assert isinstance(optimizer, torch.optim.AdamW)
    assert type(make_optimizer(model, OptimizerArguments(name="adam"))) is torch.optim.Adam


def test_a_group_without_parameters_is_an_error():
    with pytest.raises(ValueError, match=r"groups\[0\].*'lora_'"):
        make_optimizer(small_model(), OptimizerArguments(groups=[RateGroup("lora_", 1.0)]))


def rates(total: int = 10, per_epoch: int = 2, **arguments) -> list[float]:
    schedule = Schedule(OptimizerArguments(**arguments), steps_per_epoch=per_epoch, total_steps=total)
    return [schedule.rate(step, 1.0) for step in range(total)]


def test_schedules():
    assert rates() == [1.0] * 10
    assert rates(schedule="step", step_every=2, step_unit="epochs") == pytest.approx([1] * 4 + [0.1] * 4 + [0.01] * 2)
    assert rates(schedule="step", step_every=3, step_unit="steps", step_factor=0.5)[3] == 0.5
    cosine = rates(schedule="cosine", warmup=1, warmup_unit="epochs", warmup_start=0.01, final_learning_rate=0.2)
    assert cosine[:3] == pytest.approx([0.01, 0.505, 1.0])
    assert cosine[6] == pytest.approx(0.6)
    assert cosine == sorted(cosine[:3]) + sorted(cosine[3:], reverse=True)


def test_a_schedule_sets_the_rates_of_all_groups():
    arguments = OptimizerArguments(
        learning_rate=0.1, groups=[RateGroup("^2", 1.0)], schedule="step", step_unit="steps"
    )
    optimizer = make_optimizer(small_model(), arguments)
    Schedule(arguments, steps_per_epoch=1, total_steps=3).apply(optimizer, 1)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([0.01, 0.1])


@pytest.mark.parametrize("with_buffers", [False, True])
def test_averaged_weights(with_buffers):
    model = small_model()
    average = AveragedWeights(model, 0.75, with_buffers=with_buffers)
    start = model[2].weight.detach().clone()
    with torch.no_grad():
        model[2].weight.add_(4.0)
        model[1].running_mean.fill_(8.0)
    average.update(model, 1)
    with average.in_place(model):
        assert torch.allclose(model[2].weight, start + 1.0)
        assert model[1].running_mean[0] == (2.0 if with_buffers else 8.0)
    assert torch.allclose(model[2].weight, start + 4.0)
    assert "0.weight" not in average.state_dict()
    other = AveragedWeights(small_model(), 0.75, with_buffers=with_buffers)
    other.load_state_dict(average.state_dict())
    assert torch.equal(other.values["2.weight"], average.values["2.weight"])


def test_a_ramp_forgets_early_weights():
    model = small_model()
    average = AveragedWeights(model, 0.999, ramp=True)
    with torch.no_grad():
        model[2].weight.add_(1.0)
    average.update(model, 1)
    assert torch.allclose(average.values["2.weight"], model[2].weight - 2 / 11)
