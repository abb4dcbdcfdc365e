# SPDX-License-Identifier: Apache-2.0
"""The `video-saliency` command."""
