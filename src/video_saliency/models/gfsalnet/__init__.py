# SPDX-License-Identifier: Apache-2.0
"""GFSalNet: two streams, appearance and motion, joined by a gate."""
