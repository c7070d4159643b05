"""Knowledge of transformers: tokens, hidden states, attention."""

from keras_kd.losses.sequence.distilbert import DistilBert, distilbert
from keras_kd.losses.sequence.hidden import HiddenStates, hidden_cosine, hidden_mse
from keras_kd.losses.sequence.init_from_teacher import init_from_teacher
from keras_kd.losses.sequence.minilmv2 import MiniLMv2, relation_kl
from keras_kd.losses.sequence.sequence_loss import SequenceLoss
from keras_kd.losses.sequence.tinybert import (
    TinyBert,
    TinyBertPrediction,
    attention_scores_mse,
    soft_cross_entropy,
)

__all__ = [
    "DistilBert",
    "HiddenStates",
    "MiniLMv2",
    "SequenceLoss",
    "TinyBert",
    "TinyBertPrediction",
    "attention_scores_mse",
    "distilbert",
    "hidden_cosine",
    "hidden_mse",
    "init_from_teacher",
    "relation_kl",
    "soft_cross_entropy",
]
