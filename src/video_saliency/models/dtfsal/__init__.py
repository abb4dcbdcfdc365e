# SPDX-License-Identifier: Apache-2.0
"""DTFSal: dynamic token fusion of video and sound."""
