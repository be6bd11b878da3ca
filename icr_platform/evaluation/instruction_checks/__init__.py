"""Checkers of verifiable instructions: whether a text follows one, exactly and without a model, in any language.

The kinds and their English definitions are those of IFEval (arXiv 2311.07911; google-research/instruction_following_eval and its copy
in lm-eval, Apache-2.0), written anew: lm-eval's import takes ten seconds, tries to download NLTK's data, and raises an error without
them. Other languages have their own words, sentences, letters and marks, and what a language leaves open is unverified, never failed.
"""

from icr_platform.evaluation.instruction_checks.check import KINDS, check, check_loosely
from icr_platform.evaluation.instruction_checks.verdict import Verdict

__all__ = ["KINDS", "Verdict", "check", "check_loosely"]
