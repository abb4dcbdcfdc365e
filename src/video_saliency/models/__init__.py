# SPDX-License-Identifier: Apache-2.0
"""The models: one folder each, with a configuration and a modeling file."""
