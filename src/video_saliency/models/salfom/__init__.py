# SPDX-License-Identifier: Apache-2.0
"""SalFoM: a video foundation model as encoder, and a decoder of three branches."""
