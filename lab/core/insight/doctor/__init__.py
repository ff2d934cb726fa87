"""The run doctor: what the curves of a run say about its health, and since when.

Rules stand by subject in the files of this folder, each with its threshold and where that comes
from. Importing this has them all in `RULES`.
"""

from lab.core.insight.doctor import answers, groups, learning, soundness
from lab.core.insight.doctor.evidence import Evidence
from lab.core.insight.doctor.rules import ERROR, INFO, ORDER, RULES, WARNING, Finding, Rule
from lab.core.insight.doctor.soundness import NON_FINITE
from lab.core.insight.doctor.watch import EARLY, HEALTHY, WARNED, Report, Watch, examine

__all__ = ["EARLY", "ERROR", "HEALTHY", "INFO", "NON_FINITE", "ORDER", "RULES", "WARNED", "WARNING",
           "Evidence", "Finding", "Report", "Rule", "Watch", "answers", "examine", "groups",
           "learning", "soundness"]
