"""How the inputs of each golden case become arguments of a loss: used by check_golden.py."""

from golden_cases import feature_a, feature_b, relation, response, sequence
from golden_cases.case import Case

CASES: dict[str, Case] = {
    **response.CASES,
    **feature_a.CASES,
    **feature_b.CASES,
    **relation.CASES,
    **sequence.CASES,
}

__all__ = ["CASES", "Case"]
