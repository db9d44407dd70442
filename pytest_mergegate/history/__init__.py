"""What past merges tell: the registry, calibration, shipped beds, and the study of the paper."""
