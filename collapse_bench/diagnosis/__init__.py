"""Is a model collapsed, and how: scores, refined posteriors, bounds on log p(x), and a picture."""

from collapse_bench.diagnosis.diagnose import Diagnosis, diagnose, examine

__all__ = ["Diagnosis", "diagnose", "examine"]
