# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from video_saliency.backbones.box_filter import box_mean


@pytest.mark.parametrize("side", [1, 3, 7, 25])
@pytest.mark.parametrize("shape", [(2, 3, 9, 12), (1, 1, 1, 5)])
def test_means_over_windows_that_are_cut_off_at_the_border(side, shape):
    pictures = torch.rand(shape, generator=torch.Generator().manual_seed(side))
    before = pictures.clone()
    expected = F.avg_pool2d(pictures, side, stride=1, padding=side // 2, count_include_pad=False)
    torch.testing.assert_close(box_mean(pictures, side), expected)
    assert torch.equal(pictures, before), "what is given is not changed"
