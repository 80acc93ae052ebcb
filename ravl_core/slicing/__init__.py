"""Discovery baselines, one file each; every method ranks the regions of a val `Evaluation`."""
