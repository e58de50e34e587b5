"""Sub-labels of a painted window, if the data set's tumor has several labels."""

from __future__ import annotations

from dataclasses import replace

from tumorgen_cli.methods.base import Method, Request, Synthetic
from tumorgen_cli.preprocessing.sublabels import choose_sublabels, read_sublabel_rule


def with_sublabels(method: Method, request: Request, synthetic: Synthetic) -> Synthetic:
    """Return the painted window with sub-labels: those that the method drew, or by the rule that `preprocess` learned.

    Raises:
        StateError: the rule is needed and is not there.
    """
    plan = method.plan
    if isinstance(plan.tumor_label, int) or synthetic.sublabels is not None:
        return synthetic
    rule, mask = read_sublabel_rule(method.workspace), synthetic.mask >= 0.5
    made = choose_sublabels(rule, synthetic.image, mask, request.limits, request.spacing_mm, plan)
    return replace(synthetic, sublabels=made)
