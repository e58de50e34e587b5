"""The stages of the pipeline, one file each.

A stage reads a workspace, does one step and returns a record. It can be stopped and run again: what is finished is not
done again. Only `studies`, `api` and `cli` may import this folder. Names are imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "evaluate": ["evaluate_sets"],
        "filter": ["filter_pairs"],
        "merge": ["merge_sets"],
        "nnunet_setup": ["set_up_nnunet"],
        "plan": ["plan_dataset"],
        "preprocess": ["preprocess_dataset"],
        "run": ["run_all"],
        "status": ["workspace_status"],
        "synthesize": ["synthesize_pairs"],
        "train": ["train_stages"],
    },
)
