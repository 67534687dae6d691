"""How often attacks succeed."""

import numpy as np
import pandas as pd

from onepix.analysis.statistics import named, proportion
from onepix.config.statistics import Statistics
from onepix.files.records import successes

LOOK_FOR_THRESHOLD = ("threshold", "budget")  # stop rules under which records hold the first candidate past it


def success_table(records: pd.DataFrame, settings: Statistics) -> pd.DataFrame:
    """Summarise the attacks of one run.

    Parameters
    ----------
    records : DataFrame
        Attack records.
    settings : Statistics
        Confidence of the intervals.

    Returns
    -------
    DataFrame
        One row: images, correct (classified correctly), accuracy, attacks (one per correct image, or per correct image
        and target), stop (the rule), budget (candidates per attack at most), successes and success_rate of the attacks:
        found within the budget; threshold_rate, the proportion of attacks with a candidate past the threshold of
        probability (missing where the rule does not look for one); two readings of "untargeted", by image:
        class_flip_rate, the proportion of attacked images whose class changed in any attack, and any_target_rate, the
        proportion of images on which any targeted attack succeeded (missing without targeted attacks); each with
        Wilson's interval (_low, _high). What was really evaluated: queries_total, queries_mean and queries_median over
        all attacks, queries_to_success_median over the successes, queries_to_threshold_median over those past it.
    """
    attacked = records[records["eligible"]]
    by_image = attacked.assign(flipped=attacked["adversarial_class"] != attacked["label"]).groupby("image_id")
    targeted = by_image["target"].count().sum() > 0
    past = attacked["queries_to_threshold"].dropna()
    looked_for = attacked["stop"].isin(LOOK_FOR_THRESHOLD)
    correct = records[records["clean_class"] == records["label"]]["image_id"].nunique()
    row = {
        "images": records["image_id"].nunique(),
        "correct": correct,
        "accuracy": correct / records["image_id"].nunique(),
        "attacks": len(attacked),
        "stop": records["stop"].iloc[0],
        "budget": int(records["budget"].max()),
        "successes": len(successes(attacked)),
        **named("success_rate", proportion(attacked["success"], settings)),
        **named("threshold_rate", proportion(attacked.loc[looked_for, "queries_to_threshold"].notna(), settings)),
        **named("class_flip_rate", proportion(by_image["flipped"].any(), settings)),
        **named("any_target_rate", proportion(by_image["success"].any() if targeted else np.zeros(0, bool), settings)),
        "queries_total": int(attacked["queries"].sum()),
        "queries_mean": float(attacked["queries"].mean()) if len(attacked) else np.nan,
        "queries_median": _median(attacked["queries"]),
        "queries_to_success_median": _median(successes(attacked)["queries_to_success"]),
        "queries_to_threshold_median": _median(past),
    }
    return pd.DataFrame([row])


def _median(values: pd.Series) -> float:
    return float(values.median()) if len(values) else np.nan
