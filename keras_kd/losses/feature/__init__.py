"""Feature knowledge: what the teacher's layers hold."""

from keras_kd.losses.feature.activation_boundary import ActivationBoundary, activation_boundary
from keras_kd.losses.feature.attention_transfer import AttentionTransfer, attention_transfer
from keras_kd.losses.feature.catkd import CATKD, catkd, class_maps
from keras_kd.losses.feature.channel_wise import ChannelWise, channel_wise
from keras_kd.losses.feature.factor_transfer import (
    FactorTransfer,
    factor_transfer,
    make_paraphraser,
)
from keras_kd.losses.feature.feature_distillation import FeatureDistillation
from keras_kd.losses.feature.feature_loss import FeatureLoss
from keras_kd.losses.feature.flow_of_solution import FlowOfSolution, flow_of_solution
from keras_kd.losses.feature.hint import Hint, hint
from keras_kd.losses.feature.inter_channel import InterChannel, inter_channel
from keras_kd.losses.feature.jacobian import JacobianMatching, jacobian
from keras_kd.losses.feature.mgd import MGD, MaskedGenerator, masked_channels, mgd
from keras_kd.losses.feature.neuron_selectivity import NeuronSelectivity, neuron_selectivity
from keras_kd.losses.feature.overhaul import Overhaul, overhaul, overhaul_margin
from keras_kd.losses.feature.pearson import PearsonFeature, pearson_feature
from keras_kd.losses.feature.reviewkd import ReviewFusion, ReviewKD, reviewkd
from keras_kd.losses.feature.semckd import SemanticCalibration, SemCKD, semckd
from keras_kd.losses.feature.simkd import SimKD, simkd, simkd_student
from keras_kd.losses.feature.srrl import SRRL, srrl
from keras_kd.losses.feature.variational import (
    VariationalInformation,
    VariationalRegressor,
    channel_variance,
    variational_information,
)

__all__ = [
    "CATKD",
    "MGD",
    "SRRL",
    "ActivationBoundary",
    "AttentionTransfer",
    "ChannelWise",
    "FactorTransfer",
    "FeatureDistillation",
    "FeatureLoss",
    "FlowOfSolution",
    "Hint",
    "InterChannel",
    "JacobianMatching",
    "MaskedGenerator",
    "NeuronSelectivity",
    "Overhaul",
    "PearsonFeature",
    "ReviewFusion",
    "ReviewKD",
    "SemCKD",
    "SemanticCalibration",
    "SimKD",
    "VariationalInformation",
    "VariationalRegressor",
    "activation_boundary",
    "attention_transfer",
    "catkd",
    "channel_variance",
    "channel_wise",
    "class_maps",
    "factor_transfer",
    "flow_of_solution",
    "hint",
    "inter_channel",
    "jacobian",
    "make_paraphraser",
    "masked_channels",
    "mgd",
    "neuron_selectivity",
    "overhaul",
    "overhaul_margin",
    "pearson_feature",
    "reviewkd",
    "semckd",
    "simkd",
    "simkd_student",
    "srrl",
    "variational_information",
]
