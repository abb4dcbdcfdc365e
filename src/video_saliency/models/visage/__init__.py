# SPDX-License-Identifier: Apache-2.0
"""ViSAGE: experts with adapters of their own on one frozen InternVideo2, fused to one map."""
