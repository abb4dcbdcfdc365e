# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

# failures in the shared base class then show the values compared, as in the test files themselves
pytest.register_assert_rewrite("model_test_base")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
