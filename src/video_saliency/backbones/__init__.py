# SPDX-License-Identifier: Apache-2.0
"""Backbones that several models may share."""
