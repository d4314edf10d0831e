"""Write calibration.json: calibration errors by netcal and scikit-learn, for the tests.

Run once, in an environment of its own, with netcal 1.4.0 and scikit-learn 1.9.1:

    python tests/reference/make_calibration.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from netcal.metrics import ACE, ECE, MCE
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

CASES = []
for seed, n, slope in ((0, 200, 1.0), (1, 500, 0.5), (2, 1000, 2.0)):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.26, 0.99, n).round(6)
    correct = (rng.random(n) < np.clip(confidence**slope, 0, 1)).astype(int)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=10, strategy="uniform")
    by_mass = calibration_curve(correct, confidence, n_bins=10, strategy="quantile")
    isotonic = IsotonicRegression().fit(confidence, correct).predict(confidence)
    CASES.append(
        {
            "confidence": confidence.tolist(),
            "correct": correct.tolist(),
            "ece_10": float(ECE(10).measure(confidence, correct)),
            "ece_15": float(ECE(15).measure(confidence, correct)),
            "ace_10": float(ACE(10).measure(confidence, correct)),
            "mce_10": float(MCE(10).measure(confidence, correct)),
            "curve_accuracy": accuracy.tolist(),
            "curve_confidence": mean.tolist(),
            "quantile_accuracy": by_mass[0].tolist(),
            "quantile_confidence": by_mass[1].tolist(),
            "brier": float(brier_score_loss(correct, confidence)),
            "auroc_of_errors": float(roc_auc_score(1 - correct, 1 - confidence)),
            "isotonic": isotonic.tolist(),
        }
    )

if __name__ == "__main__":
    versions = {name: version(name) for name in ("netcal", "scikit-learn", "numpy")}
    path = Path(__file__).parent / "calibration.json"
    path.write_text(json.dumps({"versions": versions, "cases": CASES}) + "\n")
