"""Relation knowledge: how the examples of a batch, or layers, stand to each other."""

from keras_kd.losses.relation.contrast import crd
from keras_kd.losses.relation.contrastive import ContrastiveRepresentation, ContrastMemory
from keras_kd.losses.relation.correlation import CorrelationCongruence, cc
from keras_kd.losses.relation.instance_graph import InstanceRelationshipGraph, irg
from keras_kd.losses.relation.probabilistic import ProbabilisticKnowledgeTransfer, pkt
from keras_kd.losses.relation.relation_loss import RelationLoss
from keras_kd.losses.relation.relational import RelationalDistillation, rkd, rkd_angle, rkd_distance
from keras_kd.losses.relation.similarity import SimilarityPreserving, sp

__all__ = [
    "ContrastMemory",
    "ContrastiveRepresentation",
    "CorrelationCongruence",
    "InstanceRelationshipGraph",
    "ProbabilisticKnowledgeTransfer",
    "RelationLoss",
    "RelationalDistillation",
    "SimilarityPreserving",
    "cc",
    "crd",
    "irg",
    "pkt",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "sp",
]
