# SPDX-License-Identifier: Apache-2.0
"""Registers our models with the Auto classes of transformers."""

from __future__ import annotations

from collections import OrderedDict

from transformers import AutoConfig, AutoModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from video_saliency.models.dtfsal.configuration_dtfsal import DTFSalConfig
from video_saliency.models.dtfsal.modeling_dtfsal import DTFSalForVideoSaliency
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import GFSalNetForVideoSaliency
from video_saliency.models.salfom.configuration_salfom import SalFoMConfig
from video_saliency.models.salfom.modeling_salfom import SalFoMForVideoSaliency
from video_saliency.models.visage.configuration_visage import ViSAGEConfig
from video_saliency.models.visage.modeling_visage import ViSAGEForVideoSaliency

MODEL_FOR_VIDEO_SALIENCY_MAPPING = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForVideoSaliency(_BaseAutoModelClass):
    """Loads any model that predicts saliency maps of video, and nothing else."""

    _model_mapping = MODEL_FOR_VIDEO_SALIENCY_MAPPING


for _config_class, _model_class in (
    (DTFSalConfig, DTFSalForVideoSaliency),
    (GFSalNetConfig, GFSalNetForVideoSaliency),
    (SalFoMConfig, SalFoMForVideoSaliency),
    (ViSAGEConfig, ViSAGEForVideoSaliency),
):
    AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
    AutoModel.register(_config_class, _model_class, exist_ok=True)
    AutoModelForVideoSaliency.register(_config_class, _model_class, exist_ok=True)


__all__ = ["MODEL_FOR_VIDEO_SALIENCY_MAPPING", "AutoModelForVideoSaliency"]
